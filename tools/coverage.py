"""Branch coverage of the packages that judge, with the floors that CI holds: `python -m tools.coverage`.

Runs these packages' own unit tests once under coverage, and reports each package on its own.
"""

import subprocess
import sys

FLOORS = {"attestation": 95, "keys": 95, "ratls": 95, "tee_emulated": 95}


def run(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", *arguments], check=False).returncode


def main() -> int:
    sources = [f"--cov=teehouse.{package}" for package in FLOORS]
    tests = [f"tests/unit/{package}" for package in FLOORS]
    if run("pytest", "-q", *tests, "--cov-branch", "--cov-report=", *sources):
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
