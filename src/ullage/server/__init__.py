"""The HTTP face: requests into services, answers and errors onto the wire."""
