"""Pages of results in the three forms of cloud-api.md 4.

Form B carries its list under a name of its own and is declared with its schema; `PageB` has its other members.
"""

from math import ceil
from typing import Generic, TypeVar

from pydantic import BaseModel

T = TypeVar("T")


def pages(total: int, page_size: int) -> int:
    """How many pages there are; none for nothing."""
    return ceil(total / page_size)


class PageA(BaseModel, Generic[T]):
    """Form A. Some clients refuse any other member beside these."""

    items: list[T]
    total: int
    page: int
    page_size: int
    pages: int

    @classmethod
    def of(cls, items: list[T], total: int, page: int, page_size: int) -> "PageA[T]":
        """The page with its number of pages."""
        return cls(items=items, total=total, page=page, page_size=page_size, pages=pages(total, page_size))


class PageB(BaseModel):
    """Form B without its list."""

    total: int
    page: int
    page_size: int
    total_pages: int


class Cursor(BaseModel):
    """Where form C goes on; `next_cursor` is None at the end."""

    has_more: bool
    next_cursor: str | None
    total: int | None


class PageC(BaseModel, Generic[T]):
    """Form C."""

    data: list[T]
    pagination: Cursor
