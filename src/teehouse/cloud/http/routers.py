"""Which routers the API has. A domain adds its own here.

Rules:

1. `SIGNED` routers are served to callers with a valid key only; the check is added where they are included.
2. `PUBLIC` ones are served to everybody, and say in their docstrings why.
3. `PAGES` are for people and stand outside the API's prefix.
"""

from typing import Final

from fastapi import APIRouter

SIGNED: Final[tuple[APIRouter, ...]] = ()
PUBLIC: Final[tuple[APIRouter, ...]] = ()
PAGES: Final[tuple[APIRouter, ...]] = ()
