"""What deletions leave behind while they can be taken back."""
