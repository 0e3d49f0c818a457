"""Moving a registry's bytes from one store to another."""
