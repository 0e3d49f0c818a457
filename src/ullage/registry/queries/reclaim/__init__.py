"""Giving space back: which links and blobs nothing needs, and the tombstones of their bytes.

docs/design/deletion.md section 3.3 has the protocol.
"""
