"""How fast a converted model is, and what it takes."""
