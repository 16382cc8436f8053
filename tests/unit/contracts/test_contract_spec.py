"""contracts/SPEC.md and the tests name one another."""

import ast
import itertools
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
SPEC = HERE.parents[2] / "contracts" / "SPEC.md"


def test_each_sentence_names_its_test_and_each_test_has_a_sentence() -> None:
    there = {
        node.name
        for path in HERE.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    named: set[str] = set()
    numbers: dict[int, list[int]] = {}
    for line in SPEC.read_text().splitlines():
        if sentence := re.match(r"(\d+)\.(\d+) [A-Z`].*\.( `test_\w+`)+$", line):
            section, number = int(sentence[1]), int(sentence[2])
            numbers.setdefault(section, []).append(number)
            named.update(re.findall(r"`(test_\w+)`", line))
        else:
            assert not re.match(r"\d+\.\d+", line), f"this sentence names no test: {line}"
    assert named == there
    assert list(numbers) == list(range(1, 12))
    assert all(found == list(itertools.islice(itertools.count(1), len(found))) for found in numbers.values())
