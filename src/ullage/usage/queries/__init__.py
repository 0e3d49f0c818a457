"""How many bytes there are, whose they are, and what keeps each of them."""
