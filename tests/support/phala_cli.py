"""The published `phala` command in a home of its own."""

import json
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.functional_support import JS, need_javascript

COMMAND_SECONDS = 90


@dataclass(frozen=True)
class Phala:
    """The command with a home, a working directory and the API it speaks to; with a key it need not log in."""

    home: Path
    project: Path
    api_url: str
    api_key: str | None = field(default=None, repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """What the command sees: nothing of this machine's own logins, keys and agents."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "PHALA_CLOUD_DIR": str(self.home / "phala"),
            "PHALA_CLOUD_API_PREFIX": self.api_url,
            "PHALA_DISABLE_UPDATE_CHECK": "1",
            "CI": "1",
            "NO_COLOR": "1",
            **({} if self.api_key is None else {"PHALA_CLOUD_API_KEY": self.api_key}),
        }

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """The command, running; what it prints and complains of comes out of its `stdout`."""
        return subprocess.Popen(
            [need_javascript(), str(JS / "node_modules" / "phala" / "dist" / "index.js"), *words],
            cwd=self.project,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )

    def run(self, *words: str) -> str:
        """What a command prints that succeeds."""
        status, printed = self.end(self.begin(*words))
        assert status == 0, f"phala {' '.join(words)}: {printed}"
        return printed

    def fails(self, *words: str) -> str:
        """What a command prints that does not."""
        status, printed = self.end(self.begin(*words))
        assert status != 0, printed
        return printed

    def json(self, *words: str) -> dict[str, Any]:
        """What a command says with `--json`."""
        printed = self.run(*words, "--json")
        answer: dict[str, Any] = json.loads(printed[printed.index("{") :])
        assert answer.pop("success") is True, printed
        return answer

    def table(self, *words: str) -> list[list[str]]:
        """The rows of a table, without its head and the count below it."""
        lines = [line for line in self.run(*words).splitlines() if line.strip()]
        return [line.split() for line in lines[1:-1]]

    @staticmethod
    def end(process: subprocess.Popen[str]) -> tuple[int, str]:
        """The exit status of a running command and the rest of what it prints."""
        with process:
            try:
                printed, _ = process.communicate(timeout=COMMAND_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return process.returncode, printed


def together(*calls: Callable[[], object]) -> None:
    """Commands side by side: most of a command's time is its own start."""
    with ThreadPoolExecutor(3) as threads:
        for done in [threads.submit(call) for call in calls]:
            done.result()
