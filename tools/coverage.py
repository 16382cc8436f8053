"""Branch coverage of the packages that judge, with the floors that CI holds: `python -m tools.coverage`.

Runs the unit tests once under coverage and reports each package of FLOORS on its own.
"""

import subprocess
import sys

FLOORS = {"attestation": 95, "keys": 95, "ratls": 95, "tee_emulated": 95, "kms": 95, "guest": 93, "node": 90}


def run(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", *arguments], check=False).returncode


def main() -> int:
    sources = [f"--cov=teehouse.{package}" for package in FLOORS]
    if run("pytest", "-q", "tests/unit", "--cov-branch", "--cov-report=", *sources):
        return 1
    failed = 0
    for package, floor in FLOORS.items():
        print(f"teehouse.{package}: at least {floor} % by branch")
        failed |= run(
            "coverage",
            "report",
            "--skip-covered",
            f"--include=src/teehouse/{package}/*",
            f"--fail-under={floor}",
        )
    return failed


if __name__ == "__main__":
    sys.exit(main())
