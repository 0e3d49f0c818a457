"""Bytes by storage key in a container of Azure Blob Storage."""
