"""docs/rules.md, the page for owners: its example is valid and names every rule."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from pushtrain.core.owner.explain import every_rule
from pushtrain.core.owner.rules import Allow
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.wiring.settings import load_settings

PAGE = (Path(__file__).parent.parent / "docs" / "rules.md").read_text()
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


def keys(table: dict[str, Any], place: str = "") -> set[str]:
    """Every key of a table, by its place."""
    found = set()
    for name, value in table.items():
        found |= keys(value, f"{place}{name}.") if isinstance(value, dict) else {f"{place}{name}"}
    return found


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_is_understood(tmp_path: Path, text: str) -> None:
    state = StateFolder(tmp_path).create()
    state.settings.write_text(text)
    load_settings(state, environ={})


def test_the_complete_example_names_every_rule() -> None:
    text = EXAMPLES[0].replace("# gpg_keyring", "gpg_keyring")
    table = tomllib.loads(text)
    assert keys(table) - {"repositories"} == set(every_rule())
    assert {name for entry in table["rules"]["allow"] for name in entry} == set(Allow.model_fields)


def test_the_page_tells_of_every_rule_beside_the_example() -> None:
    prose = PAGE.replace(EXAMPLES[0], "")
    missing = [rule for rule in every_rule() if rule.rpartition(".")[2] not in prose]
    assert missing == []
