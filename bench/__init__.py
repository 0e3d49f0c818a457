"""Performance claims as programs: each row a ratio between Ullage and a named peer in one run."""
