"""Adding models of others: reading what they come in, converting them, and filing them as verified model folders."""
