"""TODO one paragraph by the owner."""
