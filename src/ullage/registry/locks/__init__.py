"""What must not be deleted or overwritten: Azure's switches, and locks with a reason."""
