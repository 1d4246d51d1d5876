"""What an installation has, and what it lacks."""
