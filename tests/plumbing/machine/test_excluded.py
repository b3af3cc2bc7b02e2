"""Cards that have failed: remembered until the machine restarts or the owner says that they are mended."""

from pathlib import Path

from pushtrain.core.runs.gpuhealth import Trouble
from pushtrain.plumbing.machine.excluded import Excluded
from pushtrain.testing import Clock, a_gpu


def excluded(tmp_path: Path, boot: str = "first") -> Excluded:
    return Excluded(tmp_path / "gpus.json", clock=Clock(), boot=lambda: boot)


def test_a_failed_card_is_remembered_and_the_first_reason_stays(tmp_path: Path) -> None:
    excluded(tmp_path).add(a_gpu(1), Trouble.MEMORY_ERRORS)
    excluded(tmp_path).add(a_gpu(1), Trouble.FALLEN_OFF)
    (one,) = excluded(tmp_path).all().values()
    assert (one.number, one.trouble) == ("1", Trouble.MEMORY_ERRORS)


def test_after_a_restart_of_the_machine_it_counts_as_good(tmp_path: Path) -> None:
    excluded(tmp_path).add(a_gpu(1), Trouble.FALLEN_OFF)
    assert excluded(tmp_path, "second").all() == {}


def test_the_owner_takes_one_out_by_number_or_uuid(tmp_path: Path) -> None:
    one = excluded(tmp_path)
    for index in range(3):
        one.add(a_gpu(index), Trouble.FALLEN_OFF)
    assert one.forgive("9") is None
    assert (one.forgive("0"), one.forgive(a_gpu(2).uuid)) != (None, None)
    assert list(excluded(tmp_path).all()) == [a_gpu(1).uuid]


def test_a_broken_file_excludes_nobody(tmp_path: Path) -> None:
    (tmp_path / "gpus.json").write_text("{")
    assert excluded(tmp_path).all() == {}
    excluded(tmp_path).add(a_gpu(0), Trouble.FALLEN_OFF)
    assert len(excluded(tmp_path).all()) == 1
