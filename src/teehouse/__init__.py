"""Teehouse: a confidential cloud that one can run, and check, oneself."""

__version__ = "0.1.0"
