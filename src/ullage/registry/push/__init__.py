"""From bytes to an image: upload sessions, links and mounts, manifests."""
