"""What is asked of a control plane and how its answers read; no I/O (cloud-api.md 1, 10, 11).

Rules:

1. The API is where the caller says, else where `PHALA_CLOUD_API_PREFIX` says; the key likewise, else
   `PHALA_CLOUD_API_KEY`. These are the variables of the published clients.
2. Requests are of the newest dated version, and answers are read by the server's own schemas. What these do not
   have is ignored.
3. An absent filter is not sent; a list repeats its key; booleans are `true` and `false` (cloud-api.md 4).
4. An app id is 40 hex digits, with `0x` or `app_` before it or not. Whatever goes into a path is escaped.
5. Answers are bounded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote, urlsplit

from pydantic import TypeAdapter, ValidationError

from teehouse.base.findings import CollateralError, Finding, Outcome, misuse
from teehouse.client.cloud.errors import CloudUnavailableError, refusal_error
from teehouse.wire.cloud.allowlists import CvmsAllowed, DeviceAllowlist, IsAllowed
from teehouse.wire.cloud.apps import AppPageV3, AppV3, FilterOptions
from teehouse.wire.cloud.attestations import AppAttestation
from teehouse.wire.cloud.cvms import CvmV3
from teehouse.wire.cloud.kms import EnvironmentPublicKey, KmsContract
from teehouse.wire.cloud.observations import CvmState
from teehouse.wire.cloud.revisions import RevisionDetail, RevisionPage
from teehouse.wire.cloud.versions import HEADER, NEWEST

T = TypeVar("T")

URL_VARIABLE: Final = "PHALA_CLOUD_API_PREFIX"
KEY_VARIABLE: Final = "PHALA_CLOUD_API_KEY"
ANSWER_LIMIT: Final = 64 * 1024 * 1024  # bytes; an app of 50 instances has some of attestations
IDEMPOTENCY_KEY: Final = "Idempotency-Key"
_APP_ID_DIGITS: Final = 40

Query = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Access:
    """Where the API begins, and the key. Without a key only what is public can be asked."""

    base_url: str
    api_key: str | None = field(default=None, repr=False)

    def headers(self) -> dict[str, str]:
        """What every request carries."""
        headers = {HEADER: NEWEST.value, "Accept": "application/json", "User-Agent": "teehouse"}
        return headers if self.api_key is None else headers | {"X-API-Key": self.api_key}


def find_access(base_url: str | None, api_key: str | None, environ: Mapping[str, str]) -> Access:
    """Rule 1. Raises `MisuseError` for a place that is no URL, and for a key that no header can carry."""
    place = base_url or environ.get(URL_VARIABLE)
    if not place:
        raise misuse(
            "cloud.no-url",
            "URL of the control plane's API",
            expected="an argument or the variable " + URL_VARIABLE,
            found="neither",
            remedy="teehouse up prints it; it ends in /api/v1",
        )
    try:
        parts = urlsplit(place)
        sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or not place.isascii() or not place.isprintable():
        raise misuse(
            "cloud.url",
            "URL of the control plane's API",
            expected="http:// or https:// and a host",
            found=ascii(place[:200]),
        )
    key = api_key or environ.get(KEY_VARIABLE) or None
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise misuse("cloud.key", "the API key", expected="printable text without spaces", found="another")
    return Access(place.rstrip("/"), key)


@dataclass(frozen=True, slots=True)
class CloudCall(Generic[T]):
    """One request, and the schema of its answer. `path` is below the API's beginning."""

    method: str
    path: str
    schema: Any
    query: Query = ()
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    idempotency_key: str | None = None

    def headers(self) -> dict[str, str]:
        """What this request carries beside what all do."""
        return {} if self.idempotency_key is None else {IDEMPOTENCY_KEY: self.idempotency_key}

    def read(self, status: int, body: bytes, request_id: str = "") -> T:
        """The answer. Raises `CloudRefusedError`, `CloudUnavailableError`."""
        if len(body) > ANSWER_LIMIT:
            raise self._unreadable(f"at most {ANSWER_LIMIT} bytes", f"{len(body)} bytes")
        if status >= 400:
            raise refusal_error(self.method, self.path, status, body, request_id)
        if not 200 <= status < 300:
            raise self._unreadable("a status of 2xx", f"status {status}")
        try:
            value: T = TypeAdapter(self.schema).validate_json(body)
        except ValidationError as error:
            places = {".".join(str(part) for part in entry["loc"]) or "the body" for entry in error.errors()}
            raise self._unreadable(
                "an answer by the schema", f"faults in {', '.join(sorted(places)[:5])}"
            ) from None
        return value

    def _unreadable(self, expected: str, found: str) -> CollateralError:
        return CloudUnavailableError(
            Finding(
                "cloud.answer",
                f"the control plane's answer to {self.method} {self.path} cannot be read",
                Outcome.COLLATERAL_MISSING,
                expected,
                found,
                "check that the URL is an API's, of this version",
            )
        )


def app_list(
    *,
    page: int,
    page_size: int,
    search: str | None,
    status: Sequence[str],
    listed: bool | None,
    base_image: str | None,
    instance_type: str | None,
    kms_slug: str | None,
    kms_type: str | None,
    node: str | None,
    region: str | None,
) -> CloudCall[AppPageV3]:
    query = _query(
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
    return CloudCall("GET", "/apps", AppPageV3, query)


def app_info(app_id: str) -> CloudCall[AppV3]:
    return CloudCall("GET", _app(app_id), AppV3)


def app_cvms(app_id: str) -> CloudCall[list[CvmV3]]:
    return CloudCall("GET", f"{_app(app_id)}/cvms", list[CvmV3])


def app_revisions(app_id: str, *, page: int | None, page_size: int | None) -> CloudCall[RevisionPage]:
    return CloudCall("GET", f"{_app(app_id)}/revisions", RevisionPage, _query(page=page, page_size=page_size))


def app_revision_detail(
    app_id: str, revision_id: str, *, raw_compose_file: bool
) -> CloudCall[RevisionDetail]:
    path = f"{_app(app_id)}/revisions/{_part(revision_id)}"
    return CloudCall("GET", path, RevisionDetail, _query(raw_compose_file=raw_compose_file or None))


def app_filter_options() -> CloudCall[FilterOptions]:
    return CloudCall("GET", "/apps/filter-options", FilterOptions)


def app_attestation(app_id: str) -> CloudCall[AppAttestation]:
    return CloudCall("GET", f"{_app(app_id)}/attestations", AppAttestation)


def app_device_allowlist(app_id: str) -> CloudCall[DeviceAllowlist]:
    return CloudCall("GET", f"{_app(app_id)}/device-allowlist", DeviceAllowlist)


def app_is_allowed(
    app_id: str, compose_hash: str, *, node_id: int | None, device_id: str | None, chain_id: int | None
) -> CloudCall[IsAllowed]:
    body = {"compose_hash": compose_hash, "node_id": node_id, "device_id": device_id, "chain_id": chain_id}
    return CloudCall("POST", f"{_app(app_id)}/is-allowed", IsAllowed, body=present(body))


def app_cvms_is_allowed(app_id: str) -> CloudCall[CvmsAllowed]:
    return CloudCall("POST", f"{_app(app_id)}/cvms/is-allowed", CvmsAllowed, body={})


def environment_key(kms: str, app_id: str) -> CloudCall[EnvironmentPublicKey]:
    return CloudCall("GET", f"/kms/{_part(kms)}/pubkey/{checked_app_id(app_id)}", EnvironmentPublicKey)


def kms_contract(kms: str) -> CloudCall[KmsContract]:
    return CloudCall("GET", f"/kms/{_part(kms)}", KmsContract)


def cvm_state(cvm_id: str) -> CloudCall[CvmState]:
    return CloudCall("GET", f"/cvms/{_part(cvm_id)}/state", CvmState)


def checked_app_id(text: str) -> str:
    """40 lower-case hex digits (rule 4). Raises `MisuseError`."""
    digits = text.removeprefix("app_").removeprefix("0x").lower()
    if len(digits) != _APP_ID_DIGITS or not set(digits) <= set("0123456789abcdef"):
        raise misuse("cloud.app-id", "the app id", expected="40 hex digits", found=ascii(text[:80]))
    return digits


def present(body: Mapping[str, Any]) -> dict[str, Any]:
    """The members that were said."""
    return {name: value for name, value in body.items() if value is not None}


def _app(app_id: str) -> str:
    return f"/apps/{checked_app_id(app_id)}"


def _part(text: str) -> str:
    """One part of a path (rule 4). Raises `MisuseError` for text that would name another place."""
    if not text or text in {".", ".."}:
        raise misuse("cloud.path", "an id in a path", expected="an id", found=repr(text))
    return quote(text, safe="")


def _query(**parameters: Any) -> Query:
    """Rule 3."""
    found: list[tuple[str, str]] = []
    for name, value in parameters.items():
        values = [value] if isinstance(value, str) or not isinstance(value, Sequence) else value
        for entry in values:
            if isinstance(entry, bool):
                found.append((name, "true" if entry else "false"))
            elif entry is not None:
                found.append((name, str(entry)))
    return tuple(found)
