"""A state folder is kept lean: what may go goes, what must stay stays, whoever is killed when."""

import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pushtrain.core.errors import Cancelled
from pushtrain.core.lifecycle import Claimed, Event, Exited, Prepared, Published, Requeued
from pushtrain.core.runs.lean import Kind, Piece
from pushtrain.core.settings import Repository
from pushtrain.core.values.run import Artifact
from pushtrain.core.values.states import Reason, State
from pushtrain.plumbing.attempts.rundir import RunDir, take_lock
from pushtrain.plumbing.data.supply import forget_notes
from pushtrain.plumbing.disk import shortcut
from pushtrain.plumbing.disk.cache import Cache
from pushtrain.plumbing.disk.ownfolders import own_folder
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.disk.trees import remove_tree, weigh
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.git.repack import collect_mirror
from pushtrain.plumbing.housekeeping.holdings import Holdings
from pushtrain.plumbing.housekeeping.upkeep import DAY, Upkeep, apart
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.testing import REPOSITORY, SENDER, WorkRepository, a_command, a_spec

MB = 1_000_000


class Disk:
    """A state folder with a store, and a clock that goes on when told."""

    def __init__(self, folder: Path) -> None:
        self.now = time.time()
        self.state = StateFolder(folder / "state").create()
        self.store = Store(self.state.store, clock=self.clock)
        self.data = Cache(self.state.data, clock=self.clock)
        self.built = Cache(self.state.environments, clock=self.clock)
        self.shed = 0
        self.nonces = 0

    def clock(self) -> float:
        return self.now

    def upkeep(self, *, budget: int = 1, floor: int = 0, keep: float = 0) -> Upkeep:
        holdings = Holdings(
            self.state, self.store, self.data, self.built, shed=self._shed, keep=keep, clock=self.clock
        )
        return Upkeep(holdings, budget=budget, floor=floor, keep_runs=0, usage=lambda _: (1000, 500, 500))

    def _shed(self) -> None:
        self.shed += 1

    def run(self, *, state: State = State.DONE, ref: str = "refs/heads/main", size: int = MB) -> str:
        """A run in this state, with a folder of this size; its id."""
        self.nonces += 1
        command = a_command(job=a_spec(command="true"), request=f"r{self.nonces}", ref=ref)
        run, _ = self.store.accept(
            command, sender=SENDER, raw=b"{}", headers={}, nonce=f"n{self.nonces}", nonce_expires=2e9,
            queue_limit=1000,
        )  # fmt: skip
        steps: list[Event] = [
            Claimed(token="t" * 32, gpus=()),
            Prepared(),
            Exited(Reason.EXITED, 0),
            Published("c" * 40, "x"),
        ]
        order = [State.QUEUED, State.PREPARING, State.RUNNING, State.PUBLISHING, State.DONE]
        for step in steps[: order.index(state)]:
            self.store.advance(run.id, step)
        folder = RunDir.of(self.state.runs, run.id, 1).create()
        folder.log.write_bytes(os.urandom(size))
        return run.id

    def mirror(self, name: str, *, used: float = 0) -> Path:
        """A folder that stands for a mirror; when it was last used."""
        folder = self.state.repositories / f"{name}.git"
        (folder / "objects").mkdir(parents=True)
        (folder / "objects" / "pack").write_bytes(os.urandom(MB))
        use = self.state.repositories / f"{name}.use"
        use.touch()
        for path in (use, folder):
            os.utime(path, (used, used))
        return folder


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def fill(folder: Path) -> None:
    (folder / "file").write_bytes(os.urandom(MB))


def names(pieces: list[Piece]) -> list[str]:
    return [f"{piece.kind}: {piece.name}" for piece in pieces]


def test_what_was_used_least_goes_until_the_budget_holds(disk: Disk) -> None:
    for key in ("a", "b", "c"):
        disk.now += 10
        disk.data.build(key, fill)
    disk.now += 10
    assert disk.data.get("a")
    assert disk.built.build("e", fill)
    total = disk.upkeep().look().disk.total
    gone = disk.upkeep(budget=total - MB - 100_000).collect()
    assert names(gone) == ["data: data/b", "data: data/c"]
    assert disk.data.get("a")
    assert disk.built.get("e")
    assert disk.upkeep(budget=total - MB - 100_000).collect() == []


def test_it_goes_too_when_others_have_filled_the_disk(disk: Disk) -> None:
    disk.data.build("a", fill)
    assert disk.upkeep(budget=10**9, floor=500).collect() == []
    assert names(disk.upkeep(budget=10**9, floor=501).collect()) == ["data: data/a"]


@pytest.mark.parametrize(
    "state", [State.QUEUED, State.PREPARING, State.RUNNING, State.PUBLISHING], ids=lambda state: state.value
)
def test_nothing_of_a_run_goes_before_its_results_are_published(disk: Disk, state: State) -> None:
    run_id = disk.run(state=state)
    folder = RunDir.of(disk.state.runs, run_id, 1)
    (folder.checkpoint / "epoch-9").write_bytes(os.urandom(MB))
    (folder.results / "model").write_bytes(os.urandom(MB))
    assert disk.upkeep().collect() == []
    assert (folder.checkpoint / "epoch-9").exists()
    assert (folder.results / "model").exists()
    assert disk.upkeep().look().stuck > 3 * MB


def test_the_log_of_a_published_run_goes_and_the_run_is_still_known(disk: Disk) -> None:
    run_id = disk.run()
    assert names(disk.upkeep().collect()) == [f"runs: {run_id}"]
    assert not (disk.state.runs / run_id).exists()
    assert disk.store.run(run_id).state is State.DONE


def test_the_log_of_a_run_goes_when_its_time_is_over_on_a_disk_with_room_enough(disk: Disk) -> None:
    run_id, waits = disk.run(), disk.run(state=State.PUBLISHING)
    upkeep = disk.upkeep(budget=10**9, keep=30 * DAY)
    disk.now += 29 * DAY
    assert upkeep.collect() == []
    disk.now += 2 * DAY
    assert names(upkeep.collect()) == [f"runs: {run_id}"]
    assert (disk.state.runs / waits).exists(), "its files are all there is"


def test_files_that_were_promised_until_a_day_stay_to_that_day(disk: Disk) -> None:
    run_id = disk.run()
    artifacts = RunDir.of(disk.state.runs, run_id, 1).artifacts
    artifacts.mkdir()
    (artifacts / "model").write_bytes(b"x")
    until = disk.now + 30 * DAY
    told = Artifact(path="model", size=1, sha256="0" * 64, where="executor", until=until)
    disk.store.save_artifacts(run_id, [told])
    assert disk.upkeep().collect() == []
    disk.now = until + 1
    assert names(disk.upkeep().collect()) == [f"runs: {run_id}"]


def test_a_folder_of_which_the_store_knows_nothing_stays(disk: Disk) -> None:
    """It may be all that is left of a run whose record was lost."""
    folder = disk.state.runs / "0123456789abcdef" / "1"
    folder.mkdir(parents=True)
    fill(folder)
    assert disk.upkeep().collect() == []
    assert (folder / "file").exists()


def test_an_environment_of_a_living_attempt_stays(disk: Disk) -> None:
    tree = RunDir.of(disk.state.runs, disk.run(state=State.RUNNING), 1).tree
    tree.mkdir()
    disk.built.build("mine", fill, holder=tree)
    disk.built.build("other", fill)
    assert names(disk.upkeep().collect()) == ["environments: environments/other"]
    assert disk.built.get("mine")


def test_a_mirror_that_somebody_uses_or_that_a_run_needs_stays(disk: Disk) -> None:
    old, mine = disk.mirror("old+one"), disk.mirror(REPOSITORY.replace("/", "+"))
    fetched, fresh = disk.mirror("a+fetched"), disk.mirror("a+fresh", used=disk.now - 60)
    disk.run(state=State.QUEUED)
    with (disk.state.repositories / "a+fetched.use").open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        assert names(disk.upkeep().collect()) == ["mirrors: old+one"]
    assert [path.exists() for path in (old, mine, fetched, fresh)] == [False, True, True, True]


def test_a_fetch_keeps_its_mirror_from_being_collected(disk: Disk, tmp_path: Path) -> None:
    work = WorkRepository(tmp_path / "work", "")
    work.git("init", "--quiet", "--bare", str(tmp_path / "origin.git"))
    mirror = Mirror(disk.state.repositories, Repository(key="host/a", remote=str(tmp_path / "origin.git")))
    mirror.ensure()
    os.utime(mirror.folder, (0, 0))
    with mirror.using():
        os.utime(disk.state.repositories / "host+a.use", (0, 0))
        assert disk.upkeep().collect() == []
    assert names(disk.upkeep().collect()) == ["mirrors: host+a"]


def test_the_caches_of_a_repository_whose_run_goes_on_stay(disk: Disk) -> None:
    disk.run(state=State.RUNNING, ref="refs/heads/main")
    kept = [
        own_folder(disk.state.caches, REPOSITORY),
        own_folder(disk.state.caches, REPOSITORY, apart="refs/heads/main"),
    ]
    gone = [
        own_folder(disk.state.caches, REPOSITORY, apart="refs/heads/x"),
        own_folder(disk.state.builds, "h/other"),
    ]
    for folder in (*kept, *gone):
        fill(folder)
    disk.upkeep().collect()
    assert [folder.exists() for folder in (*kept, *gone)] == [True, True, False, False]


def test_a_cache_that_came_into_use_at_the_moment_of_its_removal_is_put_back(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = own_folder(disk.state.caches, REPOSITORY)
    fill(folder)
    os.utime(folder, (1, 1))
    rename = Path.rename

    def late(path: Path, target: Path) -> Path:
        if path == folder:
            os.utime(path)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", late)
    assert disk.upkeep().collect() == []
    assert (folder / "file").exists()


def test_temporary_files_go_once_nobody_can_be_writing_them(disk: Disk) -> None:
    root = disk.state.root
    places = [
        root / ".identity.key.0123456789abcdef",
        disk.state.repositories / "a+b.new",
        disk.state.tools / "build-x1",
    ]
    disk.state.outbox.mkdir()
    disk.state.tools.mkdir()
    for path in (*places, root / "identity.key", disk.state.outbox / ".r.json.77"):
        path.touch()
    assert disk.upkeep(budget=10**9).collect() == []
    disk.now += 2 * DAY
    assert len(disk.upkeep(budget=10**9).collect()) == 4
    assert not any(path.exists() for path in places)
    assert (root / "identity.key").exists()


def put_aside(disk: Disk, name: str, age: float) -> list[Path]:
    """A store that was put aside so long ago, with its journal; its files."""
    moment = datetime.fromtimestamp(disk.now - age, UTC).strftime("%Y%m%dT%H%M%SZ")
    files = [disk.state.root / f"store.db.{name.format(moment)}{end}" for end in ("", "-wal")]
    for file in files:
        file.write_bytes(os.urandom(MB))
        os.utime(file, (disk.now - age, disk.now - age))
    return files


def test_stores_that_were_put_aside_are_weighed_and_go_after_a_month(disk: Disk) -> None:
    old = [*put_aside(disk, "damaged-{}", 31 * DAY), *put_aside(disk, "version-6", 31 * DAY)]
    fresh = [*put_aside(disk, "damaged-{}", 29 * DAY), *put_aside(disk, "version-7", 29 * DAY)]
    disk.store.copy()
    pieces = [piece for piece in disk.upkeep().look().pieces if piece.kind is Kind.ASIDE]
    assert [piece.files for piece in pieces] == [2, 2, 2, 2]
    assert all(piece.size >= 2 * MB for piece in pieces)
    assert len(disk.upkeep().collect()) == 2, "whatever the budget, the fresh ones stay"
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in (*fresh, disk.state.store, disk.state.root / "store.db.copy"))


@pytest.mark.parametrize("blow", ["unpublished", "unknown"])
def test_a_damaged_store_that_may_be_the_only_memory_of_a_run_stays(disk: Disk, blow: str) -> None:
    if blow == "unpublished":
        run = disk.run(state=State.PUBLISHING)
    else:
        (disk.state.runs / ("ab" * 16) / "1").mkdir(parents=True)
    disk.now += 40 * DAY
    kept = put_aside(disk, "damaged-{}", 31 * DAY)
    assert disk.upkeep(budget=10**9).collect() == []
    if blow == "unpublished":
        disk.store.advance(run, Published("c" * 40, "x"))
    else:
        remove_tree(disk.state.runs / ("ab" * 16))
    disk.run(state=State.QUEUED)  # which came after the damage
    assert len(disk.upkeep(budget=10**9, keep=10**9).collect()) == 1
    assert not any(path.exists() for path in kept)


def test_the_work_of_attempts_that_were_superseded_goes_and_checkpoints_stay(disk: Disk) -> None:
    run_id = disk.run(state=State.RUNNING)
    first, second = (RunDir.of(disk.state.runs, run_id, number) for number in (1, 2))
    (first.checkpoint / "epoch").touch()
    holdings = disk.upkeep().holdings
    assert holdings.superseded() == 0, "it goes on"
    disk.store.advance(run_id, Requeued(Reason.INTERRUPTED, "", 0))
    lock = take_lock(first.lock)
    assert lock is not None
    assert holdings.superseded() == 0, "its shim lives"
    os.close(lock)
    second.create()
    assert holdings.superseded() == 1
    assert not first.job.exists()
    assert first.log.exists()
    assert second.job.exists(), "the next attempt is not one that was superseded"
    assert (first.checkpoint / "epoch").exists()


def test_a_killed_removal_is_finished_at_the_next_start(disk: Disk) -> None:
    doomed = disk.state.trash / "env-0123"
    (doomed / "deep").mkdir(parents=True)
    (doomed / "deep" / "file").touch()
    disk.upkeep(budget=10**9).collect()
    assert list(disk.state.trash.iterdir()) == []


def killed_at(left: int, work: Callable[[], object]) -> bool:
    """Do this in a process that is killed at its so many-th rename or removal; whether it came to that."""
    pid = os.fork()
    if pid == 0:

        def die(event: str, _: object) -> None:
            nonlocal left
            if event in {"os.rename", "os.remove", "os.rmdir"}:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(die)
        work()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status in {0, signal.SIGKILL}
    return status != 0


@pytest.mark.slow
def test_killed_at_any_step_of_a_removal_nothing_half_removed_is_seen(disk: Disk) -> None:
    """At each rename and each removal in turn: a piece is whole or gone, and the next pass ends it."""
    for at in range(1, 200):
        run_id = disk.run(size=1000)
        if disk.data.get("a") is None:
            disk.data.build("a", fill)
        disk.mirror(f"m{at}")
        disk.store.close()

        def collect() -> None:
            disk.store = Store(disk.state.store, clock=disk.clock)
            disk.upkeep().collect()

        ended = not killed_at(at, collect)
        disk.store = Store(disk.state.store, clock=disk.clock)
        path = disk.data.get("a")
        assert path is None or (path / "file").stat().st_size == MB
        log = RunDir.of(disk.state.runs, run_id, 1).log
        assert not (disk.state.runs / run_id).exists() or log.stat().st_size == 1000
        if ended:
            break
    else:
        pytest.fail("it never came to its end")
    assert at > 10
    disk.upkeep().collect()
    assert list(disk.state.trash.iterdir()) == []
    assert [path for path in disk.state.data.rglob("*") if path.name == "file"] == []


def test_files_shared_by_two_entries_come_free_with_the_last(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    fill(one)
    os.link(one / "file", two / "file")
    shared: dict[tuple[int, int], int] = {}
    assert weigh(one, shared).size < MB
    assert sum(shared.values()) >= MB
    (one / "file").unlink()
    assert weigh(two, {}).size >= MB


def test_a_process_apart_collects_by_the_owners_settings(disk: Disk) -> None:
    disk.data.build("a", fill)
    disk.state.settings.write_text("[executor]\ndisk_floor = 0\ndisk_budget = 100000\n")
    apart(disk.state, lambda: None)
    assert not disk.data.has("a")


def test_a_process_apart_ends_when_it_is_to(disk: Disk) -> None:
    def stop() -> None:
        raise Cancelled("The executor stops.")

    with pytest.raises(Cancelled):
        apart(disk.state, stop)


# --- the store ---


def test_a_run_whose_details_went_is_still_the_same_run_when_it_is_sent_again(disk: Disk) -> None:
    run_id = disk.run()
    disk.now += 10
    before = disk.store.run(run_id)
    disk.upkeep().forget()
    assert disk.store.attempts(run_id) == []
    assert disk.store.events(run_id) == []
    again, fresh = disk.store.accept(
        before.command, sender=SENDER, raw=b"{}", headers={}, nonce="again", nonce_expires=2e9, queue_limit=9
    )
    assert (again, fresh) == (before, False)


def test_nothing_is_forgotten_of_a_run_that_is_not_over(disk: Disk) -> None:
    run_id = disk.run(state=State.PUBLISHING)
    disk.now += 1000 * DAY
    disk.upkeep().forget()
    assert disk.store.command_as_received(run_id)[0] == b"{}"
    assert disk.store.events(run_id)


# --- mirrors ---


def test_a_mirror_lets_go_of_what_no_branch_and_no_run_needs(tmp_path: Path) -> None:
    origin = tmp_path / "origin.git"
    work = WorkRepository(tmp_path / "work", "")
    work.git("init", "--quiet", "--bare", str(origin))
    work.git("remote", "add", "origin", str(origin))
    commits = []
    mirror = Mirror(tmp_path / "mirrors", Repository(key="host/a", remote=str(origin)))
    for number in range(3):
        work.git("checkout", "--quiet", "--orphan", f"b{number}")
        commits.append(work.commit({"file": f"{number}\n"}))
        work.git("push", "--quiet", "--force", "origin", f"{commits[-1]}:refs/heads/main")
        mirror.fetch("refs/heads/main", commits[-1])
    report = mirror.folder / "fast_import_crash_1"
    report.touch()
    assert collect_mirror(mirror.folder, {commits[0]}, grace=0)
    assert not report.exists(), "of a git that was killed while it wrote results"
    assert [mirror.commits.has(commit) for commit in commits] == [True, False, True]
    assert not collect_mirror(mirror.folder, {commits[0]}), "once a week is enough"
    assert mirror.fetch("refs/heads/main", commits[0]) is False, (
        "it was seen there, and its run may still start"
    )


def test_a_note_of_what_an_url_held_goes_with_the_data(disk: Disk) -> None:
    notes = disk.state.data / ".urls"
    notes.mkdir(parents=True)
    digest = "a" * 64
    for name, known in (("url-1", digest), ("url-2", "b" * 64)):
        (notes / name).write_text(f'{{"sha256": "{known}", "size": 1, "etag": "", "modified": ""}}')
    disk.data.build(digest, fill)
    forget_notes(disk.data)
    assert [path.name for path in notes.iterdir()] == ["url-1"]


def test_short_names_that_lead_nowhere_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    (tmp_path / "t").mkdir()
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    short = shortcut.to(deep)
    assert short != deep
    shortcut.sweep()
    assert short.exists()
    deep.rmdir()
    shortcut.sweep()
    assert not short.is_symlink()
