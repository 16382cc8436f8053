"""Refuse Python files over 800 lines, and name those over 400: `python -m tools.sizes`."""

import subprocess
import sys
from pathlib import Path

QUESTION, FAULT = 400, 800


def main() -> int:
    listed = subprocess.run(["git", "ls-files", "*.py"], check=True, capture_output=True, text=True).stdout  # noqa: S607
    faults = 0
    for name in listed.splitlines():
        path = Path(name)
        if name.endswith("_pb2.py") or not path.exists():
            continue
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > FAULT:
            faults += 1
            print(f"{name}: {lines} lines, at most {FAULT} are allowed")
        elif lines > QUESTION:
            print(f"{name}: {lines} lines; can it be two files?")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
