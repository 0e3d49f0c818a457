"""Facts by SQL: repositories, manifests, tags, links, sessions, leases. Knows no bytes."""
