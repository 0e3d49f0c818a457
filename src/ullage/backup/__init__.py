"""Copies of a registry that can be restored: made while it serves, verified, pruned, put back."""
