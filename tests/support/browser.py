"""The distribution's Chromium, driven by Playwright: a new, empty profile for each test."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from playwright.sync_api import BrowserContext, Page, Request, sync_playwright

from support.functional_support import need

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass
class Window:
    """A browser window. `complaints` are the console's warnings and errors, `addresses` all that was asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)

    def watch(self, context: BrowserContext) -> None:
        context.on("request", self._asked)
        self.page.on("console", lambda message: self._said(message.type, message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))

    def _asked(self, request: Request) -> None:
        self.addresses.append(request.url)

    def _said(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"}:
            self.complaints.append(text)


@contextmanager
def browser(
    *,
    width: int = 1280,
    height: int = 900,
    scheme: Literal["light", "dark"] = "light",
    javascript: bool = True,
    permissions: tuple[str, ...] = (),
) -> Iterator[Window]:
    """A window of the given size in pixels; skips without Chromium, which fails in CI."""
    chromium = need("chromium", "chromium")
    options: dict[str, Any] = {
        "viewport": {"width": width, "height": height},
        "color_scheme": scheme,
        "java_script_enabled": javascript,
        "permissions": list(permissions),
    }
    with tempfile.TemporaryDirectory(prefix="teehouse-browser-") as profile, sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            profile, executable_path=chromium, headless=True, args=list(FLAGS), **options
        )
        try:
            window = Window(context.pages[0])
            window.watch(context)
            yield window
        finally:
            context.close()
