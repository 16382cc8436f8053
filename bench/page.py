"""docs/performance.md: one section renewed, the others as they are."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"


def renew(sections: Iterable[Sequence[str]]) -> None:
    """Put each section in place of the one with its title, or at the end. Its first line is the title."""
    text = PAGE.read_text(encoding="utf-8")
    for lines in sections:
        body = "\n".join(lines).rstrip("\n") + "\n"
        known = re.compile(rf"^{re.escape(lines[0])}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
        if found := known.search(text):
            text = f"{text[: found.start()]}{body}\n{text[found.end() :]}".rstrip("\n") + "\n"
        else:
            text = f"{text.rstrip()}\n\n{body}"
    PAGE.write_text(text, encoding="utf-8")
