"""The gas that docs/contracts-gas.md states is what anvil charges."""

from pathlib import Path

from bench import gas

from support.anvil import need_anvil


def test_the_stated_gas_is_what_anvil_charges(tmp_path: Path) -> None:
    need_anvil()
    measured = gas.render(gas.measure(tmp_path))
    assert gas.PAGE.read_text(encoding="utf-8") == measured, "`python -m bench.gas` writes the page anew"
