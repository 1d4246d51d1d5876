"""What there is to gain in a model, and what this installation has."""
