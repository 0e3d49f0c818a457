"""Giving space back: which links and blobs nothing needs, and the tombstones of their bytes.

`release_links` is the one place where a blob is condemned. docs/design/deletion.md section 3.3 has
the protocol.
"""
