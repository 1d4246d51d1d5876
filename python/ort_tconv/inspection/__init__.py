"""What there is to gain in a model."""
