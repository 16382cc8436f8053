"""Boots CVMs and runs their apps: measured boot, runners, many agents in one event loop."""
