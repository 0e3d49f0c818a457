"""The facts of the OCI specifications: names, digests, manifests, errors.

Pure: the standard library only, no input or output, no clock, no logging.
"""
