"""Commands that run and manage a registry: in a data folder of this machine, or over HTTP.

What they need is slow to import, so they are imported only where one of them is asked for.
"""
