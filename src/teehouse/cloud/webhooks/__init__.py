"""Telling a workspace's own servers what happened."""
