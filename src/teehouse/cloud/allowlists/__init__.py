"""Allow-lists: what the contract of an app lets run, and where."""
