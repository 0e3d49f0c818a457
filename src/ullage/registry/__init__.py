"""What a registry is and holds: pushes, pulls, leases, locks, and the queries that they share."""
