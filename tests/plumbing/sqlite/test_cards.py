"""The newest card of an executor is remembered, and nothing makes it older."""

from math import inf
from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.plumbing.sqlite.cards import CardNotes
from pushtrain.plumbing.sqlite.database import MIGRATIONS, Database
from pushtrain.plumbing.sqlite.store import Store

numbers = st.dictionaries(st.sampled_from(["SHA256:a", "SHA256:b", "SHA256:c"]), st.integers(-(2**53), 2**53))


@given(st.lists(numbers))
def test_the_store_and_the_file_remember_the_highest_number_of_each_key(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[dict[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("cards")
    expected: dict[str, int] = {}
    store, notes = Store(folder / "store.db"), CardNotes(folder / "notes.json")
    for newest in rounds:
        store.note_cards(newest)
        notes.note_cards(newest)
        expected |= {name: max(number, expected.get(name, number)) for name, number in newest.items()}
    store.close()
    store = Store(folder / "store.db")
    assert store.newest_cards() == expected
    assert CardNotes(folder / "notes.json").newest_cards() == expected
    store.close()


def test_a_store_from_before_there_were_rosters_learns_to_remember_cards(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    step = next(number for number, script in enumerate(MIGRATIONS, 1) if "CREATE TABLE cards" in script)
    Database(path, migrations=MIGRATIONS[:step]).close()
    connection = apsw.Connection(str(path))
    connection.execute(f"DROP TABLE cards; PRAGMA user_version = {step}")
    connection.close()
    database = Database(path, migrations=MIGRATIONS[:step])
    assert database.read(lambda db: db.execute("SELECT count(*) FROM cards").get) == 0
    database.close()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"newest": 1, "texts": []}', b'{"newest": {"a": "x"}}']
)
def test_a_file_that_says_nothing_counts_as_empty_and_is_written_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.json"
    path.write_bytes(content)
    notes = CardNotes(path)
    assert (notes.newest_cards(), notes.texts()) == ({}, {})
    notes.note_texts({"here": "text \udcff"}, 100)
    assert [notes.age(*asked) for asked in (("here", 130), ("here", 90), ("there", 130))] == [30, inf, inf]
    notes.note_cards({"a": 1})
    assert (notes.newest_cards(), notes.texts()) == ({"a": 1}, {"here": "text \udcff"})
