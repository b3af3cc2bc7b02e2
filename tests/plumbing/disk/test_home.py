"""Which machine a state folder belongs to: copies that are started elsewhere are noticed."""

import socket
from pathlib import Path

import pytest

from pushtrain.core.errors import Cloned, StorageError
from pushtrain.plumbing.disk.home import machine_id, move_in, saw_twin, settle

HERE, THERE = "a" * 32, "b" * 32


def test_a_state_folder_that_was_copied_to_another_machine_is_refused_there(tmp_path: Path) -> None:
    home = tmp_path / "machine.json"
    settle(home, here=HERE)
    settle(home, here=HERE)
    with pytest.raises(Cloned, match=f"belongs to another machine, {socket.gethostname()}") as caught:
        settle(home, here=THERE)
    assert str(tmp_path) in caught.value.message
    assert "pushtrain store moved" in caught.value.mend
    settle(home, here=HERE)


def test_a_state_folder_that_has_moved_for_good_is_served_where_it_is_now_and_nowhere_else(
    tmp_path: Path,
) -> None:
    home = tmp_path / "machine.json"
    settle(home, here=HERE)
    move_in(home, here=THERE)
    settle(home, here=THERE)
    with pytest.raises(Cloned):
        settle(home, here=HERE)


def test_where_a_machine_has_no_id_nothing_is_compared(tmp_path: Path) -> None:
    home = tmp_path / "machine.json"
    settle(home, here="")
    settle(home, here=HERE)
    settle(home, here="")
    with pytest.raises(Cloned):
        settle(home, here=THERE)


def test_a_twin_that_was_seen_keeps_both_from_starting_until_somebody_has_looked(tmp_path: Path) -> None:
    home = tmp_path / "machine.json"
    settle(home, here=HERE)
    saw_twin(home, "Another machine works with it.")
    with pytest.raises(Cloned, match="Another machine works with it") as caught:
        settle(home, here=HERE)
    assert "pushtrain store moved" in caught.value.mend
    move_in(home, here=HERE)
    settle(home, here=HERE)


def test_a_record_that_cannot_be_read_is_no_leave_to_start(tmp_path: Path) -> None:
    home = tmp_path / "machine.json"
    for damaged in (b"", b"{", b"[]"):
        home.write_bytes(damaged)
        with pytest.raises(StorageError, match="cannot be read") as caught:
            settle(home, here=HERE)
        assert "pushtrain store moved" in caught.value.mend
    move_in(home, here=HERE)
    settle(home, here=HERE)


def test_the_machines_name_is_kept_to_itself_and_only_a_real_one_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    second.write_text(f"{'0123456789abcdef' * 2}\n")
    for nothing in (None, "", "uninitialized\n", "ä" * 32):
        if nothing is not None:
            first.write_text(nothing)
        found = machine_id((first, second))
        assert found == machine_id((second,))
        assert "0123456789abcdef" not in found
        assert len(found) == 32
    assert machine_id((first,)) == ""
