"""A day's downloads: counted where the bytes come in, over restarts, whatever a server says of them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruled import Lab, ran

from data_server import FileServer, file_server
from pushtrain.core.owner.lending import OwnerRules
from pushtrain.core.owner.rules import Limits, Rules
from pushtrain.core.values.jobspec import DataSource
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Outcome, Reason, State
from pushtrain.plumbing.git import lfs


@pytest.fixture
def files() -> Iterator[FileServer]:
    with file_server() as server:
        yield server


def fed(folder: Path, files: FileServer, most: int) -> Lab:
    """A lab whose owner lets so many bytes in a day."""
    hosts = (files.url.partition("://")[2],)
    return Lab(folder, Rules(allow_data_hosts=hosts, limits=Limits(downloads_per_day=most)))


def wants(lab: Lab, url: str) -> Run:
    return lab.send(lab.command("cat data.bin | wc -c", data=(DataSource(url=url, path="data.bin"),)))


def test_a_run_that_would_exceed_the_days_downloads_waits_for_midnight_also_after_a_restart(
    tmp_path: Path, files: FileServer
) -> None:
    lab = fed(tmp_path, files, 1_000_000)
    first = files.serve("/first.bin", b"1" * 700_000)
    second = files.serve("/second.bin", b"2" * 700_000)
    small = files.serve("/small.bin", b"3" * 200_000)
    with lab.open():
        assert lab.done(wants(lab, first)).run.outcome is Outcome.SUCCEEDED
    with lab.open():
        view = lab.until(run := wants(lab, second), lambda view: view.run.not_before > 0)
        assert (view.run.state, view.run.reason) == (State.QUEUED, Reason.DEFERRED)
        assert "`rules.limits.downloads_per_day`" in view.run.waiting_for
        assert view.run.not_before % 86_400 == 0
        assert lab.done(wants(lab, small)).run.outcome is Outcome.SUCCEEDED
        lab.client().cancel(run.id)
    count = json.loads(lab.state.downloads.read_bytes())["bytes"]
    assert 900_000 < count < 910_000, "with the commits, which are small"


def test_a_server_that_hides_how_much_it_sends_is_stopped_at_the_limit(
    tmp_path: Path, files: FileServer
) -> None:
    lab = fed(tmp_path, files, 1_000_000)
    url = files.serve("/endless.bin", b"x" * 30_000_000, length=False)
    with lab.open():
        view = lab.until(run := wants(lab, url), lambda view: view.run.not_before > 0)
        assert view.run.reason is Reason.DEFERRED
        lab.client().cancel(run.id)
    parts = [path.stat().st_size for path in lab.state.data.rglob("part")]
    assert sum(parts) <= 1_000_000


def test_a_file_that_no_day_would_let_in_is_refused(tmp_path: Path, files: FileServer) -> None:
    lab = fed(tmp_path, files, 1_000_000)
    with lab.open():
        view = lab.done(wants(lab, files.serve("/large.bin", b"x" * 1_000_001)))
    assert view.run.reason is Reason.REFUSED
    assert "`rules.limits.downloads_per_day`" in view.run.detail
    assert not ran(lab, view)


def test_large_files_of_a_commit_wait_for_the_hour_and_no_day_lets_in_more_than_it_may(
    tmp_path: Path,
) -> None:
    def pointing(lab: Lab, size: int) -> Run:
        text = lfs.Pointer("0" * 64, size).text().decode()
        return lab.send(lab.command("true", commit=lab.commit({"model.bin": text})))

    loud = Lab(tmp_path / "loud", Rules(limits=Limits(downloads_per_day=1_000_000)))
    with loud.open():
        view = loud.done(pointing(loud, 3_000_000))
    assert (view.run.reason, ran(loud, view)) == (Reason.REFUSED, False)
    assert "`rules.limits.downloads_per_day`: 3 MB must come at once, and 1 MB" in view.run.detail
    quiet = Lab(tmp_path / "quiet", Rules(owner=OwnerRules(quiet=("Mon-Sun",))))
    with quiet.open():
        view = quiet.until(run := pointing(quiet, 10), lambda view: view.run.not_before > 0)
        assert (view.run.state, view.run.reason) == (State.QUEUED, Reason.DEFERRED)
        assert "`rules.owner.quiet`" in view.run.waiting_for
        quiet.client().cancel(run.id)
