"""What the control plane's pages for people have in common: frame, style, headers, the band of emulation.

Rules:

1. A page loads nothing, runs nothing, and is framed by nobody; its style is in it, by its hash.
2. Where a node is emulated, each page says so before all else, with the names of the roots that its quotes verify
   under. A page that could not find out is not shown.
"""

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Final

from jinja2 import ChoiceLoader, Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.cloud.nodes.models import Node

STYLE: Final = (files(__package__) / "templates" / "pages.css").read_text(encoding="utf-8")
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()


def page_headers(*, forms: bool = False) -> Mapping[str, str]:
    """The headers of a page (rule 1); `forms` are sent to this site alone, or not at all."""
    target = "'self'" if forms else "'none'"
    return {
        "Content-Security-Policy": (
            f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
            f"form-action {target}; frame-ancestors 'none'"
        ),
        "Referrer-Policy": "no-referrer",
    }


def page_environment(package: str) -> Environment:
    """Templates of a package, on the frame `base.html`; they are given `style` and want `roots` (rule 2)."""
    loader = ChoiceLoader([PackageLoader(package), PackageLoader(__package__)])
    environment = Environment(loader=loader, autoescape=select_autoescape(), trim_blocks=True)
    environment.globals["style"] = Markup(STYLE)  # noqa: S704 - our own file
    return environment


async def emulated_roots(session: AsyncSession) -> list[str]:
    """The names of the roots of emulated nodes, each once (rule 2)."""
    statement = select(Node.root).where(Node.emulated).distinct().order_by(Node.root)
    return list(await session.scalars(statement))
