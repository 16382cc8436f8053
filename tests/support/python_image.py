"""An image of the Python that runs here, with dstack-sdk, what that needs, and a shell; no registry is asked."""

import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

IMAGE = "teehouse-test/python:1"
_BUSYBOX = Path("/bin/busybox")
_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
_UNUSED = frozenset(
    {
        "test",
        "tests",
        "idlelib",
        "tkinter",
        "turtledemo",
        "ensurepip",
        "lib2to3",
        "pydoc_data",
        "site-packages",
    }
)
_UNUSED_PREFIXES = ("config-", "_tkinter", "_test", "libpython")
_SOURCES = frozenset({".c", ".h", ".pyx", ".pxd", ".pyi", ".a"})


def write_image(path: Path) -> None:
    """Write the image's file system as a tar archive, for `docker import`."""
    library = Path(sysconfig.get_path("stdlib"))
    interpreter = Path(sys.base_prefix) / "bin" / _VERSION
    # Where the interpreter looks for its library: beside the place it stands at.
    files = {f"usr/bin/{_VERSION}": interpreter, "bin/busybox": _BUSYBOX.resolve()}
    files |= {f"usr/lib/{_VERSION}/{file.relative_to(library)}": file for file in _library(library)}
    files |= {f"usr/lib/{_VERSION}/site-packages/{name}": file for name, file in _packages("dstack-sdk")}
    binaries = [file for name, file in files.items() if ".so" in file.name or name.startswith("usr/bin/")]
    files |= {str(file).lstrip("/"): file for file in _shared_libraries(binaries)}
    with tarfile.open(path, "w") as archive:
        for name, file in sorted(files.items()):
            archive.add(file.resolve(), name)
        for name, target in (("bin/sh", "busybox"), ("usr/bin/python3", _VERSION)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        for name in ("tmp", "var/run"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
            archive.addfile(folder)


def _library(library: Path) -> Iterator[Path]:
    for file in library.rglob("*"):
        parts = file.relative_to(library).parts
        unused = any(part in _UNUSED or part.startswith(_UNUSED_PREFIXES) for part in parts)
        if file.is_file() and not unused and ".opt-" not in file.name and file.suffix not in _SOURCES:
            yield file


def _packages(name: str) -> Iterator[tuple[str, Path]]:
    """The files of a distribution and of what it requires, by their names below site-packages."""
    waiting, seen = [name], set[str]()
    while waiting:
        wanted = waiting.pop()
        if (found := _installed(wanted)) is None or wanted in seen:
            continue
        seen.add(wanted)
        waiting += [
            match.group().lower().replace("_", "-")
            for line in found.requires or ()
            if "extra ==" not in line and (match := re.match(r"[A-Za-z0-9_.-]+", line))
        ]
        for file in found.files or ():
            place = Path(str(file.locate()))
            if ".." not in file.parts and place.is_file() and file.suffix not in _SOURCES:
                yield str(file), place


def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None  # required on other systems only


def _shared_libraries(binaries: list[Path]) -> set[Path]:
    """What the dynamic linker loads for them, at the paths where it looks."""
    printed = subprocess.run(
        ["/usr/bin/ldd", *map(str, binaries)], capture_output=True, text=True, timeout=60, check=False
    ).stdout
    return {Path(found) for found in re.findall(r"(?:=> |^\t)(/\S+) \(0x", printed, re.MULTILINE)}
