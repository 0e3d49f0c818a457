"""HTTP: from requests to calls of the services, and from results and errors to responses."""
