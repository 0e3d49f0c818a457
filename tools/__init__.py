"""Programs for whoever works on Ullage; none of them is part of the package."""
