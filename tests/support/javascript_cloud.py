"""The published @phala/cloud in one Node process, called from Python: any function, at either version, side by side."""

import itertools
import json
import subprocess
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Self

from support.functional_support import JS, need_javascript

CALL_SECONDS = 60


class Refused(Exception):  # noqa: N818 - the word of this house
    """What a call threw: the package's own class by name, the HTTP status and the error code where there are."""

    def __init__(self, call: str, error: dict[str, Any]) -> None:
        super().__init__(f"{call}: {json.dumps(error, indent=1)[:3000]}")
        self.name: str = error.get("name") or ""
        self.message: str = error.get("message") or ""
        self.status: int | None = error.get("status")
        self.code: str | None = error.get("code")
        self.detail: Any = error.get("detail")


@dataclass(frozen=True)
class Names:
    """What the package has: functions it exports, those of its webhook module, methods of its client object."""

    functions: frozenset[str]
    webhook: frozenset[str]
    methods: frozenset[str]


class JavascriptCloud:
    """A process of js/cloud.mjs; used as a context manager."""

    def __init__(self, url: str, key: str) -> None:
        self._process = subprocess.Popen(
            [need_javascript(), "cloud.mjs", url, key],
            cwd=JS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._writing = threading.Lock()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(10)
        self._process.stdout.close()

    def call(self, version: str, form: str, name: str, *arguments: Any) -> Any:
        """What the call gives; of the safe forms, what they wrap. Raises `Refused`."""
        answered: Future[dict[str, Any]] = Future()
        with self._writing:
            number = next(self._numbers)
            self._waiting[number] = answered
            line = {
                "id": number,
                "version": version,
                "form": form,
                "name": name,
                "arguments": list(arguments),
            }
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()
        answer = answered.result(CALL_SECONDS)
        if "error" in answer:
            raise Refused(f"{name} at {version}", answer["error"])
        return answer["result"]

    def own(self, name: str, *arguments: Any) -> Any:
        """What one of the script's own functions gives."""
        return self.call("", "own", name, *arguments)

    def local(self, name: str, *arguments: Any) -> Any:
        """What a function gives that asks nobody."""
        return self.call("", "local", name, *arguments)

    def names(self) -> Names:
        told = self.own("names")
        return Names(frozenset(told["functions"]), frozenset(told["webhook"]), frozenset(told["methods"]))

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            self._waiting.pop(answer["id"]).set_result(answer)
        for answered in self._waiting.values():
            answered.set_result({"error": {"message": "the Node process ended"}})
