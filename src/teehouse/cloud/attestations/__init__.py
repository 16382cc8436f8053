"""Attestations: evidence of running CVMs, asked from their agents."""
