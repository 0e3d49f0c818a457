"""What the suites share: real servers to start, commands to find, a clock to move by hand."""
