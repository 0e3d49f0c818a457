"""Bytes by storage key: the seam between the registry and whatever keeps its bytes.

A store knows nothing of repositories, tags or users; what a key means is recorded elsewhere.
Every object goes one way: `create` -> `append` -> `commit` -> `delete`. Keys are made by the
server and never used twice, so an operation that runs late can never meet another object's bytes.

Nothing here assumes a local path: an object store implements `append` as the parts of a multipart
upload and `commit` as its completion.
"""
