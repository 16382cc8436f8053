"""Clients of what Teehouse serves, sync and async over one core without I/O."""

from teehouse.client.guest import AsyncGuestClient, GuestClient

__all__ = ["AsyncGuestClient", "GuestClient"]
