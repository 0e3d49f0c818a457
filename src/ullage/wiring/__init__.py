"""Settings into a running registry: the one room that sees all others."""
