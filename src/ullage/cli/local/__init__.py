"""Commands that work on this machine: on the registry whose data folder is here.

What they need is slow to import, so they are imported only where one of them is asked for.
"""
