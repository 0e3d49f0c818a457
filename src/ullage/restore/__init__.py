"""Taking a deletion back, while soft delete keeps what it took."""
