"""What is known of a model and its inputs before it runs: shapes, plans, parts of its graph."""
