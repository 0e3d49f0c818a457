"""SQL about what a backup says of itself, and what a restore changes."""
