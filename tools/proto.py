"""Generate `wire/*_pb2.py` and `.pyi` from the `.proto` files beside them.

`python -m tools.proto` writes them; `--check` generates afresh elsewhere, compares with what is in the
tree, and ends with 1 when they differ.
"""

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]  # published without type information

SOURCE = Path(__file__).resolve().parent.parent / "src"
# The compiler's stubs use bare generics, which strict checking refuses.
STUB_NOTE = "# mypy: ignore-errors"
PROTOS = (
    "teehouse/wire/guest.proto",
    "teehouse/wire/guest_api.proto",
    "teehouse/wire/kms.proto",
    "teehouse/wire/node.proto",
)


def outputs(proto: str) -> tuple[str, str]:
    """The two files that one `.proto` gives, as paths under the source folder."""
    stem = proto.removesuffix(".proto")
    return f"{stem}_pb2.py", f"{stem}_pb2.pyi"


def generate(target: Path) -> None:
    """Write all generated files below `target`. Raises SystemExit when the compiler refuses a source."""
    well_known = files("grpc_tools") / "_proto"
    arguments = ["protoc", f"-I{SOURCE}", f"-I{well_known}", f"--python_out={target}", f"--pyi_out={target}"]
    status = protoc.main([*arguments, *PROTOS])
    if status != 0:
        raise SystemExit(f"protoc ended with {status}")
    for proto in PROTOS:
        stub = target / outputs(proto)[1]
        stub.write_text(f"{STUB_NOTE}\n{stub.read_text()}")


def differing(target: Path) -> list[str]:
    """The generated files whose text in the tree is not what the sources give."""
    generate(target)
    return [
        name
        for proto in PROTOS
        for name in outputs(proto)
        if not (SOURCE / name).exists() or (SOURCE / name).read_bytes() != (target / name).read_bytes()
    ]


def main(arguments: list[str]) -> int:
    """Run as a command; gives the exit status."""
    if arguments not in ([], ["--check"]):
        print("usage: python -m tools.proto [--check]", file=sys.stderr)
        return 2
    if not arguments:
        generate(SOURCE)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        stale = differing(Path(folder))
    for name in stale:
        print(f"{name} is not what its .proto gives; run `make proto`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
