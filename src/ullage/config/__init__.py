"""Settings: what they are, how their values are written, where they come from."""
