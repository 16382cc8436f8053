"""What the API refuses, with the codes and statuses of cloud-api.md 3.

Rules:

E1. A refusal with a code has the status of its code; the table is `ErrorCode` and nothing else.
E2. One without a code is told in a sentence (`refusal`): not signed in, not found, busy.
E3. A record of another workspace is refused exactly as one that does not exist.
E4. No message carries a key, a token, or anything that was meant to be secret.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from teehouse.base.findings import Finding, MisuseError, Outcome


class ErrorCode(Enum):
    """The codes of cloud-api.md 3.2, each with its HTTP status."""

    NODE_NOT_FOUND = ("ERR-01-001", 400)
    COMPOSE_FILE_REQUIRED = ("ERR-01-002", 400)
    INVALID_COMPOSE_FILE = ("ERR-01-003", 400)
    DUPLICATE_CVM_NAME = ("ERR-01-004", 409)
    HASH_REGISTRATION_REQUIRED = ("ERR-01-005", 465)
    HASH_INVALID_OR_EXPIRED = ("ERR-01-006", 466)
    TX_VERIFICATION_FAILED = ("ERR-01-007", 467)
    HASH_NOT_ALLOWED = ("ERR-01-008", 468)
    INSTANCE_TYPE_NOT_FOUND = ("ERR-02-001", 400)
    RESOURCE_NOT_AVAILABLE = ("ERR-02-002", 400)
    INSUFFICIENT_VCPU = ("ERR-02-003", 400)
    INSUFFICIENT_MEMORY = ("ERR-02-004", 400)
    INSUFFICIENT_SLOTS = ("ERR-02-005", 400)
    GPU_ALLOCATION_ERROR = ("ERR-02-006", 400)
    INSUFFICIENT_GPU = ("ERR-02-007", 400)
    INVALID_REQUEST = ("ERR-02-008", 400)
    INCOMPATIBLE_CONFIG = ("ERR-02-009", 400)
    IMAGE_NOT_FOUND = ("ERR-02-010", 400)
    KMS_NOT_FOUND = ("ERR-02-011", 400)
    TEEPOD_NOT_ACCESSIBLE = ("ERR-02-012", 400)
    OS_IMAGE_NOT_COMPATIBLE = ("ERR-02-013", 400)
    NODE_CAPACITY_NOT_CONFIGURED = ("ERR-02-014", 400)
    QUOTA_EXCEEDED = ("ERR-02-015", 400)
    CVM_NOT_FOUND = ("ERR-03-001", 404)
    MULTIPLE_CVMS_SAME_NAME = ("ERR-03-002", 409)
    CVM_NOT_IN_WORKSPACE = ("ERR-03-003", 403)
    CVM_ACCESS_DENIED = ("ERR-03-005", 403)
    REPLICA_IMAGE_NOT_AVAILABLE = ("ERR-03-006", 400)
    CVM_APP_ID_CONFLICT = ("ERR-03-007", 409)
    APP_HAS_SEVERAL_CVMS = ("ERR-03-010", 409)  # a name of our own: clients have no constant for it
    INSUFFICIENT_BALANCE = ("ERR-04-001", 402)
    MAX_CVM_LIMIT = ("ERR-04-002", 400)
    RESOURCE_LIMIT_EXCEEDED = ("ERR-04-003", 400)
    TOKEN_LIMIT_EXCEEDED = ("ERR-05-001", 400)
    TOKEN_RATE_LIMIT = ("ERR-05-002", 429)
    PERMISSION_DENIED = ("ERR-06-006", 403)

    @property
    def code(self) -> str:
        """`ERR-MM-NNN`."""
        return self.value[0]

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.value[1]


@dataclass(frozen=True, slots=True)
class Detail:
    """An entry of `details`; what is None is left out."""

    field: str | None = None
    value: Any = None
    message: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The entry as JSON members."""
        members = {"field": self.field, "value": self.value, "message": self.message}
        return {name: value for name, value in members.items() if value is not None}


class CloudError(MisuseError):
    """A refusal of the API. `code` is None for one in a sentence (E2)."""

    def __init__(
        self,
        code: ErrorCode | None,
        message: str,
        *,
        status: int | None = None,
        details: Sequence[Detail] = (),
        suggestions: Sequence[str] = (),
        links: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        name = "refused" if code is None else code.name.lower().replace("_", "-")
        remedy = suggestions[0] if suggestions else ""
        super().__init__(Finding(f"cloud.{name}", message, Outcome.MISUSE, remedy=remedy))
        self.code = code
        self.message = message
        self.status = code.status if code is not None else status or 400
        self.details = tuple(details)
        self.suggestions = tuple(suggestions)
        self.links = tuple(dict(link) for link in links)
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The answer's body (cloud-api.md 3, forms 1 and 3)."""
        if self.code is None:
            return {"detail": self.message}
        return {
            "error_code": self.code.code,
            "message": self.message,
            "details": [detail.as_dict() for detail in self.details],
            "suggestions": list(self.suggestions),
            "links": list(self.links),
        }


def refusal(status: int, message: str, *, headers: Mapping[str, str] | None = None) -> CloudError:
    """A refusal in a sentence (E2)."""
    return CloudError(None, message, status=status, headers=headers)


def not_found(what: str) -> CloudError:
    """404 (E3). `what` names the kind of thing: "app", "revision"."""
    return refusal(404, f"{what[:1].upper()}{what[1:]} not found")


def busy(message: str) -> CloudError:
    """409 without code, which clients take for transient (cloud-api.md 15)."""
    return refusal(409, message)


def denied(message: str, *suggestions: str) -> CloudError:
    """403: the caller is known and may not."""
    return CloudError(ErrorCode.PERMISSION_DENIED, message, suggestions=suggestions)
