"""Rules that clean up by themselves: how they decide, run, explain, and are tried on the past."""
