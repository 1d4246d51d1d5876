"""Whether a converted model computes what the original computes."""
