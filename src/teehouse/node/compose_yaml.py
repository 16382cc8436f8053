"""A docker-compose file as plain data, whatever its author wished upon the reader.

Rules:

1. At most 256 KiB, 64 levels, and 50 000 values after every alias is followed; no alias leads back into itself.
2. The schema is YAML 1.2's core: `no` and `22:22` are strings, dates too. Merge keys (`<<`) are followed.
3. The keys of a mapping are scalars, read as strings, and none stands twice.
"""

import re
from typing import Any

import yaml

from teehouse.node.workload import WorkloadError, refusal

SIZE_LIMIT = 256 * 1024  # bytes
DEPTH_LIMIT = 64
VALUE_LIMIT = 50_000
_TAG = "tag:yaml.org,2002:"
_CORE = (
    ("null", r"(?:null|Null|NULL|~|)$", ["n", "N", "~", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"[-+]?[0-9]+$", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
    ("merge", r"<<$", ["<"]),
)


class _Loader(yaml.CSafeLoader):
    """A loader with the core schema (rule 2)."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the base class declares it so


def _decimal(loader: yaml.CSafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))  # a leading zero is no octal sign


for _name, _pattern, _first in _CORE:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(_pattern), _first)
_Loader.add_constructor(_TAG + "int", _decimal)


def load_compose(text: str) -> dict[str, Any]:
    """The file as dicts, lists and scalars. Raises `WorkloadError` (`compose.malformed`)."""
    size = len(text.encode(errors="replace"))
    if size > SIZE_LIMIT:
        raise _fault("a file of reasonable size", expected=f"at most {SIZE_LIMIT} bytes", found=str(size))
    try:
        _check_depth(text)
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                raise _fault("a file that says something", found="nothing")
            _check_nodes(root)
            data = loader.construct_document(root)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise _fault("YAML", found=_problem(error)) from None  # its text quotes the file
    except ValueError:
        raise _fault("YAML", found="a number that is too long") from None
    if not isinstance(data, dict):
        raise _fault("a mapping", found=type(data).__name__)
    return data


def _check_depth(text: str) -> None:
    """Rule 1, before anything is built: events come without recursion."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEPTH_LIMIT:
                raise _fault("nesting", expected=f"at most {DEPTH_LIMIT} levels", found="more")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _check_nodes(root: yaml.Node) -> None:
    """Rules 1 and 3. Counts what following the aliases would make, without doing it."""
    known: dict[int, tuple[int, int] | None] = {}

    def measure(node: yaml.Node, level: int) -> tuple[int, int]:
        """Values and levels below; None stands in `known` for a node that is being measured."""
        if id(node) not in known:
            known[id(node)] = None
            known[id(node)] = _total([measure(child, level + 1) for child in _children(node)])
        measured = known[id(node)]
        if measured is None:
            raise _fault(
                "aliases", expected="no alias within its own anchor", found=f"one in line {_line(node)}"
            )
        if level + measured[1] > DEPTH_LIMIT:
            raise _fault("nesting", expected=f"at most {DEPTH_LIMIT} levels", found="more")
        return measured

    measure(root, 0)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        _name_keys(node)
        return [value for _, value in node.value]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _total(children: list[tuple[int, int]]) -> tuple[int, int]:
    size = 1 + sum(size for size, _ in children)
    if size > VALUE_LIMIT:
        raise _fault("aliases", expected=f"at most {VALUE_LIMIT} values in all", found="more")
    return size, 1 + max((height for _, height in children), default=0)


def _name_keys(node: yaml.MappingNode) -> None:
    """Rule 3."""
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _fault("keys", expected="scalars", found=f"another one in line {_line(key)}")
        if key.tag == _TAG + "merge":
            continue
        key.tag = _TAG + "str"
        if key.value in seen:
            raise _fault("keys", expected="each once", found=f"{key.value[:64]!r} again in line {_line(key)}")
        seen.add(key.value)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"a fault in line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"
    return "a character that has no place in it"


def _fault(what: str, *, expected: str = "", found: str = "") -> WorkloadError:
    return refusal("compose.malformed", f"docker-compose file: {what}", expected=expected, found=found)
