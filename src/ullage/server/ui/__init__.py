"""The web UI: pages made here, for browsers, below `/ui/`."""
