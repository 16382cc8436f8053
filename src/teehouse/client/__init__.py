"""Clients of what Teehouse serves, sync and async over one core without I/O.

The clients of the control plane come with their schemas, which take a while to load: they are loaded when they are
first named.
"""

from typing import TYPE_CHECKING, Any

from teehouse.client.guest import AsyncGuestClient, GuestClient

if TYPE_CHECKING:
    from teehouse.client.cloud import AsyncCloudClient, CloudClient

__all__ = ["AsyncCloudClient", "AsyncGuestClient", "CloudClient", "GuestClient"]


def __getattr__(name: str) -> Any:
    if name in {"AsyncCloudClient", "CloudClient"}:
        from teehouse.client import cloud  # noqa: PLC0415 - see the module

        return getattr(cloud, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
