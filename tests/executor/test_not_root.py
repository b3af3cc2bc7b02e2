"""Jobs of root's executor are not root: attacks on what the kernel leaves to uid 0; what must still work."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from executor_house import House, done, story

import pushtrain
from pushtrain.adapters.sandboxes import Ground
from pushtrain.adapters.sandboxes.confined import Confined
from pushtrain.adapters.sandboxes.sandbox import Bubblewrap
from pushtrain.core.owner.rules import Rules
from pushtrain.core.values.isolation import JobNetwork
from pushtrain.core.values.jobspec import DataSource
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Outcome
from pushtrain.plumbing.isolation import jobuser
from pushtrain.plumbing.isolation.inside import command
from pushtrain.plumbing.isolation.visits import disarm
from pushtrain.ports import Cage

SOURCE = str(Path(pushtrain.__file__).parents[1])
MIB = 1024 * 1024

pytestmark = pytest.mark.skipif(not jobuser.wanted(), reason="only root's jobs could be root")


@pytest.fixture
def house(tmp_path: Path) -> House:
    """Root's executor, its jobs in the sandbox."""
    found = House(tmp_path)
    found.sandbox = Bubblewrap(Ground(found.state.isolation))
    if why := found.sandbox.missing()[0]:
        pytest.skip(f"level `sandbox` cannot be tried here: {why}")
    found.settings = found.settings.model_copy(update={"rules": Rules(network=JobNetwork.FULL)})
    return found


async def ran(house: House, command: str, **changes: Any) -> tuple[Run, str]:
    async with house.running() as service:
        run = await done(service, house.send(service, command, **changes))
        return run, service.shown.log_chunk(run.id, 0, 0, MIB).data.decode()


def files(folder: Path, name: str) -> list[os.stat_result]:
    return [path.lstat() for path in folder.rglob(name)]


@story
async def test_what_a_job_leaves_set_uid_is_neither_roots_nor_set_uid(house: House) -> None:
    run, log = await ran(
        house,
        "cp /usr/bin/id $HOME/shell && chmod 6755 $HOME/shell && stat -c %a $HOME/shell; "
        "cp /usr/bin/id $PUSHTRAIN_RESULTS_DIR/result && chmod 6755 $PUSHTRAIN_RESULTS_DIR/result",
    )
    assert (run.outcome, log) == (Outcome.SUCCEEDED, "6755\n"), log
    (left,) = files(house.state.caches, "shell")
    assert left.st_uid >= jobuser.FIRST, "the job's own"
    assert not left.st_mode & (stat.S_ISUID | stat.S_ISGID)
    for kept in files(house.state.runs, "result"):
        assert (kept.st_uid, stat.S_IMODE(kept.st_mode)) == (0, 0o600)


def told_to_root() -> list[str]:
    return [one.name for one in Path("/proc").iterdir() if one.is_file() and not one.stat().st_mode & 0o004]


@story
async def test_a_job_reads_nothing_that_the_kernel_tells_root_alone(house: House) -> None:
    names = told_to_root()
    assert {"slabinfo", "kpagecount", "timer_list"} & set(names), "there is something to be tried"
    tries = "; ".join(f"(exec 3</proc/{name}) 2>/dev/null && echo opened {name}" for name in names)
    _, log = await ran(house, f"{tries}; echo end")
    assert log == "end\n"


@story
async def test_a_job_sees_itself_as_an_ordinary_user_and_owns_its_folders(house: House) -> None:
    folders = "$PUSHTRAIN_RESULTS_DIR $PUSHTRAIN_CHECKPOINT_DIR $HOME $TMPDIR $XDG_CACHE_HOME . /tmp"
    _, log = await ran(
        house, f"id -un; id -u; for f in {folders}; do stat -c %U $f; touch $f/x || exit 1; done"
    )
    assert log == "job\n1000\n" + "job\n" * 7


@story
async def test_what_one_run_cached_the_next_one_of_the_repository_uses(house: House) -> None:
    await ran(house, "echo model > $HF_HOME/weights; chmod 600 $HF_HOME/weights")
    shutil.rmtree(next(house.state.caches.glob("*/torch")))  # the executor makes it anew
    _, log = await ran(
        house, "cat $HF_HOME/weights; echo more >> $HF_HOME/weights; touch $TORCH_HOME/x && echo kept"
    )
    assert log == "model\nkept\n"


@story
async def test_folders_that_root_alone_may_read_can_be_lent(house: House, tmp_path: Path) -> None:
    lent = tmp_path / "lent"
    lent.mkdir(0o700)
    (lent / "train.csv").touch(0o600)
    (lent / "train.csv").write_text("1,2\n")
    executor = house.settings.executor.model_copy(update={"mounts": {"corpus": str(lent)}})
    house.settings = house.settings.model_copy(update={"executor": executor})
    command = (
        "cat data/train.csv; echo x > data/new || echo refused; chmod 777 data/train.csv || echo refused"
    )
    _, log = await ran(house, command, data=(DataSource(mount="corpus", path="data"),))
    assert (log.splitlines()[0], log.count("refused")) == ("1,2", 2), log
    assert stat.S_IMODE((lent / "train.csv").stat().st_mode) == 0o600


def test_nothing_is_given_away_that_a_job_may_not_write(tmp_path: Path) -> None:
    """All below such a folder would be the job's: a mistake in a cage must not cost the owner's Python."""
    for name in ("own", "owners"):
        (tmp_path / name).mkdir()
    cage = Cage(writable=(tmp_path / "own",), own=(tmp_path / "own", tmp_path / "owners"))
    with pytest.raises(PermissionError, match="may not write"):
        jobuser.settle(cage)
    assert (tmp_path / "owners").stat().st_uid == (tmp_path / "own").stat().st_uid == 0


def test_what_is_given_in_a_folder_that_root_alone_may_pass_can_be_reached(tmp_path: Path) -> None:
    """An executor whose umask is 077 makes such folders."""
    shared = tmp_path / "shared"
    for path in (shared, shared / "between", shared / "between" / "tools"):
        path.mkdir(0o700)
    cage = Cage(writable=(shared,), own=(shared / "between" / "tools",))
    argv, env = command(
        Bubblewrap(Ground(tmp_path / "isolation")).enclose(cage),
        (
            "sh",
            "-c",
            f"touch {shared}/between/tools/made; touch {shared}/no {shared}/between/no; ls {shared}",
        ),
        {"PATH": "/usr/bin:/bin"},
    )
    subprocess.run(argv, env=env, capture_output=True, check=False)
    assert [path.name for path in shared.rglob("*")] == ["between", "tools", "made"]


def test_a_level_whose_jobs_stay_root_takes_back_what_another_one_gave_away(tmp_path: Path) -> None:
    """Without capabilities root cannot write what is somebody else's: caches would be lost to its jobs."""
    caches = tmp_path / "caches"
    caches.mkdir()
    jobuser.settle(Cage(writable=(caches,)))
    confined = Confined(Ground(tmp_path / "isolation"))
    if why := confined.missing()[0]:
        pytest.skip(f"level `confined` cannot be tried here: {why}")
    enclosure = confined.enclose(Cage(writable=(caches,), network=JobNetwork.FULL))
    argv, env = command(enclosure, ("sh", "-c", f"echo x >{caches}/made"), {"PATH": "/usr/bin:/bin"})
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert (caches / "made").exists(), done.stderr
    jobuser.settle(Cage(writable=(caches,)))
    assert (caches / "made").stat().st_uid >= jobuser.FIRST


def test_links_and_second_names_give_a_job_nothing(tmp_path: Path) -> None:
    own, private = tmp_path / "own", tmp_path / "key"
    own.mkdir()
    private.write_text("private")
    (own / "link").symlink_to(private)
    (own / "folder").symlink_to(tmp_path)
    os.link(private, own / "name")
    jobuser.settle(Cage(writable=(own,)))
    assert (private.stat().st_uid, tmp_path.stat().st_uid) == (0, 0)
    assert own.stat().st_uid >= jobuser.FIRST


def test_disarming_follows_no_link_and_passes_over_no_depth(tmp_path: Path) -> None:
    owners, job = tmp_path / "sudo", tmp_path / "job"
    owners.touch()
    owners.chmod(0o4755)
    deep = job
    deep.mkdir()
    for _ in range(150):
        deep /= "d"
    deep.mkdir(parents=True)
    for path in (job / "one", deep / "two"):
        path.touch()
        path.chmod(0o6711)
    (job / "link").symlink_to(owners)
    (job / "folder").symlink_to(tmp_path)
    disarm(job)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (job / "one", deep / "two")] == [0o711, 0o711]
    assert stat.S_IMODE(owners.stat().st_mode) == 0o4755


def test_a_root_that_cannot_become_others_is_told_so() -> None:
    if not shutil.which("setpriv"):
        pytest.skip("there is no setpriv")
    script = (
        "import json; from pushtrain.plumbing.isolation import jobuser; print(json.dumps(jobuser.lacking()))"
    )
    argv = ("setpriv", "--bounding-set", "-sys_admin,-setuid", sys.executable, "-c", script)
    environ = {**os.environ, "PYTHONPATH": SOURCE}
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=True)
    why, mend = json.loads(done.stdout)
    assert "root lacks CAP_SETUID, CAP_SYS_ADMIN here" in why
    assert "--cap-add SYS_ADMIN" in mend
