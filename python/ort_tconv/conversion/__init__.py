"""Converts models, and what does so on the way: to a session, or to a server."""
