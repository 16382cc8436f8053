"""Durable work on CVMs: what is asked of nodes, step after step, whatever happens to the process in between."""
