"""What the routes that change CVMs ask for."""

from typing import Annotated

from fastapi import Depends, Header, Path

from teehouse.cloud.cvms.lifecycle import Lifecycle
from teehouse.cloud.cvms.operations import Author
from teehouse.cloud.errors import refusal
from teehouse.cloud.http.dependencies import Parts, Signed


def lifecycle_of(parts: Parts) -> Lifecycle:
    """The services that change CVMs. Raises `CloudError` 503 where this process has none."""
    if parts.lifecycle is None:
        raise refusal(503, "CVMs cannot be changed here: no nodes are configured")
    return parts.lifecycle


def author_of(caller: Signed) -> Author:
    """The caller, as who is written into revisions and operations."""
    return Author.of(caller)


Life = Annotated[Lifecycle, Depends(lifecycle_of)]
By = Annotated[Author, Depends(author_of)]
CvmPath = Annotated[str, Path(max_length=128, description="UUID, id, number, app_..., instance_... or name")]
AppPath = Annotated[str, Path(max_length=64)]
PrepareOnly = Annotated[bool, Header(alias="X-Prepare-Only")]
ComposeHash = Annotated[str | None, Header(alias="X-Compose-Hash", max_length=80)]
TransactionHash = Annotated[str | None, Header(alias="X-Transaction-Hash", max_length=80)]
