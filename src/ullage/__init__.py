"""Ullage: a container registry that gives space back, online and to the byte."""

__version__ = "0.1.0"
