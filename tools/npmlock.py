"""Take every URL out of package-lock.json files, leaving names, versions and hashes: `python -m tools.npmlock FILE…`."""

import json
import sys
from pathlib import Path
from typing import Any

URL_MEMBERS = ("resolved", "funding", "homepage", "bugs", "repository")


def main() -> int:
    for name in sys.argv[1:]:
        path = Path(name)
        lock: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for package in lock["packages"].values():
            for member in URL_MEMBERS:
                package.pop(member, None)
        path.write_text(json.dumps(lock, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
