"""The bill: which bytes belong to what, and why a blob or an image is kept."""
