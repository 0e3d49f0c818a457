"""Deleting, and giving the bytes back.

`closure.py` decides what goes along, `delete.py` takes the rows away, `release_links` in
registry/queries/reclaim condemns blobs, and `reclaim.py` erases their bytes later.
docs/design/tour.md section 2 follows one deletion.
"""
