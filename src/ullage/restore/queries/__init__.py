"""What was deleted softly, as it can be listed and restored."""
