"""CVMs, and what is under way with them."""
