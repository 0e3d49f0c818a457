"""Reading blobs and manifests, and remembering when an image was pulled."""
