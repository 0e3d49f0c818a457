"""The command line: `ullage …`. Commands that need the services import them when they run."""
