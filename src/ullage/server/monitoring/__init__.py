"""What those that watch a registry ask of it: whether it is fit for work, and its figures."""
