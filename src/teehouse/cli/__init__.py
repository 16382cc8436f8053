"""Thin commands over the client packages."""
