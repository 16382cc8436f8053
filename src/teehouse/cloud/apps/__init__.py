"""Apps: the CVMs that share one app id, hence keys."""
