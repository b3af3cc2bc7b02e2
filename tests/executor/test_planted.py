"""What strangers put on the results branch is not taken for a run's results, and keeps none from landing."""

import json
import re
from pathlib import Path

import pytest
from publishing_line import RESULTS, Line, one, over, published

from pushtrain.core.values.states import Outcome
from pushtrain.executor.results import index
from pushtrain.executor.results import publish as publishing
from pushtrain.executor.results.publish import Publishable
from pushtrain.executor.results.wording import folder
from pushtrain.testing import a_command, a_run


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


def put(line: Line, files: dict[str, str]) -> None:
    """Have somebody who can push put these on the results branch."""
    tip = line.tip()
    line.work.git("checkout", "--quiet", *([tip] if tip else ["--orphan", "planted"]))
    line.work.commit(files)
    line.work.git("push", "--quiet", "origin", f"HEAD:refs/heads/{RESULTS}")


def plant(line: Line, item: Publishable, path: str, *, files: tuple[str, ...] = ()) -> None:
    """Have somebody who can push put a folder with a run's id on the branch, and a fine record in it."""
    each = {"size": 1, "sha256": "0" * 64, "where": "git", "url": "", "until": None}
    placed = [{"path": name, **each} for name in files]
    told = item.run.model_dump(mode="json") | {"outcome": "succeeded"}
    record = json.dumps({"version": 1, "executor": {"key": line.key}, "run": told, "files": placed})
    put(line, {f"{path}/run.json": record, f"{path}/README.md": "all is well"})


def test_a_folder_that_somebody_planted_under_a_runs_id_is_not_taken_for_its_results(line: Line) -> None:
    item = line.item({"a": b"1"})
    assert item.folder is not None
    expected = f"{folder(item.run)}{item.run.id[8:]}"
    plant(line, item, folder(item.run), files=("a",))
    done = one(line.publisher(), item)
    assert done.path == expected
    assert line.show(done, "files/a") == "1"
    assert f"]({expected}/)" in line.show(done, "/README.md")
    assert one(line.publisher(), line.item()).path != expected


def test_whatever_is_planted_a_runs_results_find_a_place_and_land_once(line: Line) -> None:
    item = line.item()
    for path in (folder(item.run), f"{folder(item.run)}{item.run.id[8:]}"):
        plant(line, item, path)
    done = one(line.publisher(), item)
    assert re.fullmatch(rf"{folder(item.run)}{item.run.id[8:]}[0-9a-f]{{8}}", done.path)
    assert one(line.publisher(), item) == done, "as after a death before it was written down"
    assert len(line.log()) == 3


@pytest.mark.parametrize("record", ["[" * 100_000, pytest.param(" " * (65 << 20), marks=pytest.mark.slow)])
def test_a_planted_record_that_cannot_be_read_holds_up_no_run(line: Line, record: str) -> None:
    items = [line.item({"a": b"1"}), line.item({"b": b"2"})]
    put(line, {f"{folder(items[0].run)}/run.json": record})
    outcomes = line.publisher().publish(items)
    first, second = (published(outcomes[item.run.id]) for item in items)
    assert first.path == f"{folder(items[0].run)}{items[0].run.id[8:]}"
    assert second.path == folder(items[1].run)


def test_planted_pages_that_are_too_large_or_no_files_are_left_alone(line: Line) -> None:
    item = line.item()
    month = folder(item.run).rpartition("/")[0]
    large = index.MARK + "x" * (2 << 20)
    put(line, {"README.md": large, f"{month}/README.md/odd": "x"})
    done = one(line.publisher(), item)
    assert line.show(done, "/README.md") == large
    assert done.path == folder(item.run)
    assert line.show(done, f"/{month}/README.md/odd") == "x"


def test_a_run_without_an_attempt_takes_nothing_from_a_planted_folder(line: Line) -> None:
    run = over(a_run(a_command(commit=line.commit)), Outcome.CANCELLED).model_copy(update={"attempt": 0})
    told = run.model_dump(mode="json")
    file = {
        "path": "evil",
        "size": 1,
        "sha256": "0" * 64,
        "where": "url",
        "url": "https://x.y/z",
        "until": None,
    }
    record = {"version": 1, "executor": {"name": "lab-3", "key": line.key}, "run": told, "files": [file]}
    put(line, {f"{folder(run)}/run.json": json.dumps(record)})
    done = one(line.publisher(), Publishable(run))
    assert (done.artifacts, done.path) == ((), f"{folder(run)}{run.id[8:]}")
    assert one(line.publisher(), Publishable(run)) == done, "as after a death before it was written down"


def test_a_folder_is_free_only_if_nothing_is_in_it(line: Line) -> None:
    item = line.item({"a": b"1"})
    put(line, {f"{folder(item.run)}/files/planted": "x"})
    done = one(line.publisher(), item)
    assert done.path == f"{folder(item.run)}{item.run.id[8:]}"
    assert not any(path.startswith(f"{done.path}/files/planted") for path in line.work.files(line.tip()))


def test_what_was_pushed_without_a_note_of_it_is_known_by_its_content(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by an executor of an earlier version that died between push and bookkeeping."""
    monkeypatch.setattr(publishing, "_let_go", lambda _, done: done)
    item = line.item({"a": b"1"})
    assert item.folder is not None
    done = one(line.publisher(), item)
    (item.folder.root / "offered.json").unlink()
    assert one(line.publisher(), item) == done
    assert line.log() == [done.commit]


def test_a_folder_with_other_content_is_not_taken_for_a_run_of_which_nothing_is_noted(line: Line) -> None:
    item = line.item({"a": b"1"})
    done = one(line.publisher(), item)
    assert item.folder is not None
    for name in ("offered.json", "published.json"):
        (item.folder.root / name).unlink()
    other = line.item({"a": b"2"})
    assert other.folder is not None
    again = Publishable(item.run, item.attempts, other.folder, (), item.command, item.headers)
    assert one(line.publisher(), again).path != done.path
