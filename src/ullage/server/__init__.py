"""HTTP: from requests to calls of the use cases, and from results and errors to responses."""
