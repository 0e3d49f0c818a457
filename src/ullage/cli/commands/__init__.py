"""Commands that work on a registry over HTTP, as anyone else does; names and manners of `az acr`.

Nothing here knows how a registry works: only `ullage.oci`, an HTTP client and what prints. Nothing
heavy is imported before it is needed, for these commands are run in loops.
"""
