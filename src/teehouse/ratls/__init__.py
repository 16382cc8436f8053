"""Certificates that carry evidence: made, requested, read, and bound to their key."""
