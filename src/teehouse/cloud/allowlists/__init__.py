"""What contracts, and their owners, allow apps to run."""
