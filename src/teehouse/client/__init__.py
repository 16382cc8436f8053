"""Clients of what Teehouse serves, sync and async over one core without I/O."""
