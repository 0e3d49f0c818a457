"""SQL that only deletions and restores need: what one takes, moves and leaves to its successor."""
