"""The control plane, called synchronously or from a running loop (cloud-api.md 10, 11).

```python
with CloudClient() as cloud:
    for app in cloud.get_app_list(status=["running"]).dstack_apps:
        print(app.name, app.cvm_count)
```

Both clients ask the same `CloudCall`s and raise `CloudRefusedError` (a `MisuseError`) for what the API refuses,
`CloudUnavailableError` (a `CollateralError`) when it did not answer. Redirects are not followed: they would carry
the key to another place.
"""

import asyncio
import os
import time
from collections.abc import Generator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx

from teehouse.base.findings import Finding, Outcome
from teehouse.client.cloud import calls
from teehouse.client.cloud.calls import Access, CloudCall, find_access
from teehouse.client.cloud.deploying import OFF_CHAIN, Deployment, Order, Pause, steps
from teehouse.client.cloud.errors import CloudUnavailableError
from teehouse.wire.cloud.allowlists import CvmsAllowed, DeviceAllowlist, IsAllowed
from teehouse.wire.cloud.apps import AppPageV3, AppV3, FilterOptions
from teehouse.wire.cloud.attestations import AppAttestation
from teehouse.wire.cloud.cvms import CvmV3
from teehouse.wire.cloud.revisions import RevisionDetail, RevisionPage

T = TypeVar("T")

TIMEOUT: Final = 30.0  # seconds for one call
_REQUEST_ID: Final = "X-Request-ID"


def _request(access: Access, call: CloudCall[Any]) -> dict[str, Any]:
    return {
        "method": call.method,
        "url": f"{access.base_url}{call.path}",
        "params": call.query,
        "headers": call.headers(),
        **({} if call.body is None else {"json": call.body}),
    }


def _unreached(access: Access, call: CloudCall[Any], error: Exception) -> CloudUnavailableError:
    return CloudUnavailableError(
        Finding(
            "cloud.unreachable",
            f"the control plane at {access.base_url} did not answer {call.method} {call.path}",
            Outcome.COLLATERAL_MISSING,
            found=str(error) or type(error).__name__,
            remedy=f"check that it runs there; the argument base_url or {calls.URL_VARIABLE} says where",
        )
    )


class CloudClient:
    """The control plane, called synchronously. One client may be used by many threads.

    Without arguments the two variables of `calls` say where and with which key. `timeout` is in seconds for each
    call; `transport` replaces the network.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = TIMEOUT,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.access = find_access(base_url, api_key, os.environ)
        self._http = httpx.Client(headers=self.access.headers(), timeout=timeout, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def call(self, call: CloudCall[T]) -> T:
        """Ask one `CloudCall`. Raises `CloudRefusedError`, `CloudUnavailableError`."""
        try:
            response = self._http.request(**_request(self.access, call))
        except httpx.RequestError as error:
            raise _unreached(self.access, call, error) from None
        return call.read(response.status_code, response.content, response.headers.get(_REQUEST_ID, ""))

    def get_app_list(
        self,
        *,
        page: int = 1,
        page_size: int = 20,
        search: str | None = None,
        status: Sequence[str] = (),
        listed: bool | None = None,
        base_image: str | None = None,
        instance_type: str | None = None,
        kms_slug: str | None = None,
        kms_type: str | None = None,
        node: str | None = None,
        region: str | None = None,
    ) -> AppPageV3:
        """A page of the workspace's apps, newest first; `page_size` at most 100, filters combine."""
        return self.call(
            calls.app_list(
                page=page,
                page_size=page_size,
                search=search,
                status=status,
                listed=listed,
                base_image=base_image,
                instance_type=instance_type,
                kms_slug=kms_slug,
                kms_type=kms_type,
                node=node,
                region=region,
            )
        )

    def get_app_info(self, app_id: str) -> AppV3:
        """An app with its CVMs."""
        return self.call(calls.app_info(app_id))

    def get_app_cvms(self, app_id: str) -> list[CvmV3]:
        """The CVMs of an app."""
        return self.call(calls.app_cvms(app_id))

    def get_app_revisions(
        self, app_id: str, *, page: int | None = None, page_size: int | None = None
    ) -> RevisionPage:
        """What was changed, newest first; `page_size` at most 1000."""
        return self.call(calls.app_revisions(app_id, page=page, page_size=page_size))

    def get_app_revision_detail(
        self, app_id: str, revision_id: str, *, raw_compose_file: bool = False
    ) -> RevisionDetail:
        """A change with its compose file: parsed, or raw, the text that `compose_hash` is the SHA-256 of."""
        return self.call(calls.app_revision_detail(app_id, revision_id, raw_compose_file=raw_compose_file))

    def get_app_filter_options(self) -> FilterOptions:
        """The values that the workspace's apps can be filtered by."""
        return self.call(calls.app_filter_options())

    def get_app_attestation(self, app_id: str) -> AppAttestation:
        """Evidence of all instances of an app. It is passed on as it is: verify it before believing it."""
        return self.call(calls.app_attestation(app_id))

    def get_app_device_allowlist(self, app_id: str) -> DeviceAllowlist:
        """Which devices the app's contract allows."""
        return self.call(calls.app_device_allowlist(app_id))

    def check_app_is_allowed(
        self,
        app_id: str,
        compose_hash: str,
        *,
        node_id: int | None = None,
        device_id: str | None = None,
        chain_id: int | None = None,
    ) -> IsAllowed:
        """Whether the app's contract allows a compose hash on a device."""
        return self.call(
            calls.app_is_allowed(
                app_id, compose_hash, node_id=node_id, device_id=device_id, chain_id=chain_id
            )
        )

    def check_app_cvms_is_allowed(self, app_id: str) -> CvmsAllowed:
        """Whether the app's contract allows what each of its CVMs runs."""
        return self.call(calls.app_cvms_is_allowed(app_id))

    def deploy(
        self,
        name: str,
        compose: str | Mapping[str, Any],
        *,
        env: Mapping[str, str] | None = None,
        kms: str = OFF_CHAIN,
        kms_root_key: bytes | None = None,
        wait: bool = True,
        timeout: float = 300.0,
        poll: float = 1.0,
        **options: Any,
    ) -> Deployment:
        """Deploy an app and wait until it runs (`deploying`, rules 1 to 6).

        `options` are members of the provision (cloud-api.md 13.2): `instance_type`, `vcpu`, `memory` (MB),
        `disk_size` (GB), `node_id`, `region`, `image`, `listed`. Raises `MisuseError`, `CollateralError`.
        """
        order = Order(name, compose, env, kms, kms_root_key, options, wait, timeout, poll)
        work = steps(order, time.monotonic)
        return _drive(self, work)


def _drive(client: CloudClient, work: Generator[CloudCall[Any] | Pause, Any, Deployment]) -> Deployment:
    answer: Any = None
    try:
        while True:
            step = work.send(answer)
            if isinstance(step, Pause):
                answer = None
                time.sleep(step.seconds)
            else:
                answer = client.call(step)
    except StopIteration as end:
        deployed: Deployment = end.value
        return deployed


class AsyncCloudClient:
    """The control plane, called from a running loop. The methods are those of `CloudClient`."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = TIMEOUT,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """As `CloudClient`."""
        self.access = find_access(base_url, api_key, os.environ)
        self._http = httpx.AsyncClient(headers=self.access.headers(), timeout=timeout, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def call(self, call: CloudCall[T]) -> T:
        """Ask one `CloudCall`. Raises `CloudRefusedError`, `CloudUnavailableError`."""
        try:
            response = await self._http.request(**_request(self.access, call))
        except httpx.RequestError as error:
            raise _unreached(self.access, call, error) from None
        return call.read(response.status_code, response.content, response.headers.get(_REQUEST_ID, ""))

    async def get_app_list(
        self,
        *,
        page: int = 1,
        page_size: int = 20,
        search: str | None = None,
        status: Sequence[str] = (),
        listed: bool | None = None,
        base_image: str | None = None,
        instance_type: str | None = None,
        kms_slug: str | None = None,
        kms_type: str | None = None,
        node: str | None = None,
        region: str | None = None,
    ) -> AppPageV3:
        """As `CloudClient.get_app_list`."""
        return await self.call(
            calls.app_list(
                page=page,
                page_size=page_size,
                search=search,
                status=status,
                listed=listed,
                base_image=base_image,
                instance_type=instance_type,
                kms_slug=kms_slug,
                kms_type=kms_type,
                node=node,
                region=region,
            )
        )

    async def get_app_info(self, app_id: str) -> AppV3:
        return await self.call(calls.app_info(app_id))

    async def get_app_cvms(self, app_id: str) -> list[CvmV3]:
        return await self.call(calls.app_cvms(app_id))

    async def get_app_revisions(
        self, app_id: str, *, page: int | None = None, page_size: int | None = None
    ) -> RevisionPage:
        return await self.call(calls.app_revisions(app_id, page=page, page_size=page_size))

    async def get_app_revision_detail(
        self, app_id: str, revision_id: str, *, raw_compose_file: bool = False
    ) -> RevisionDetail:
        return await self.call(
            calls.app_revision_detail(app_id, revision_id, raw_compose_file=raw_compose_file)
        )

    async def get_app_filter_options(self) -> FilterOptions:
        return await self.call(calls.app_filter_options())

    async def get_app_attestation(self, app_id: str) -> AppAttestation:
        return await self.call(calls.app_attestation(app_id))

    async def get_app_device_allowlist(self, app_id: str) -> DeviceAllowlist:
        return await self.call(calls.app_device_allowlist(app_id))

    async def check_app_is_allowed(
        self,
        app_id: str,
        compose_hash: str,
        *,
        node_id: int | None = None,
        device_id: str | None = None,
        chain_id: int | None = None,
    ) -> IsAllowed:
        return await self.call(
            calls.app_is_allowed(
                app_id, compose_hash, node_id=node_id, device_id=device_id, chain_id=chain_id
            )
        )

    async def check_app_cvms_is_allowed(self, app_id: str) -> CvmsAllowed:
        return await self.call(calls.app_cvms_is_allowed(app_id))

    async def deploy(
        self,
        name: str,
        compose: str | Mapping[str, Any],
        *,
        env: Mapping[str, str] | None = None,
        kms: str = OFF_CHAIN,
        kms_root_key: bytes | None = None,
        wait: bool = True,
        timeout: float = 300.0,  # noqa: ASYNC109 - of the whole deployment, counted by its steps
        poll: float = 1.0,
        **options: Any,
    ) -> Deployment:
        """As `CloudClient.deploy`."""
        order = Order(name, compose, env, kms, kms_root_key, options, wait, timeout, poll)
        work = steps(order, time.monotonic)
        answer: Any = None
        try:
            while True:
                step = work.send(answer)
                if isinstance(step, Pause):
                    answer = None
                    await asyncio.sleep(step.seconds)
                else:
                    answer = await self.call(step)
        except StopIteration as end:
            deployed: Deployment = end.value
            return deployed
