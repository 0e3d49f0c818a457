"""The command line: `ullage …`. Commands that open a data folder import that late."""
