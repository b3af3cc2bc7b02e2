"""Jobs under a uid of their own: what that keeps from them, and what it must not give them."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from training_needs import FDS, POOL, RENDEZVOUS

import pushtrain
from pushtrain.adapters.sandboxes import Ground
from pushtrain.adapters.sandboxes.user import OwnUser
from pushtrain.core.errors import ConfigError
from pushtrain.core.owner.canaries import Act, Result
from pushtrain.core.values.isolation import JobNetwork
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.isolation import jobuser
from pushtrain.plumbing.isolation.inside import command
from pushtrain.plumbing.isolation.nearby import Machine
from pushtrain.plumbing.isolation.trial import try_level
from pushtrain.plumbing.programs import proc
from pushtrain.ports import Cage

SYSTEM = f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def state() -> Iterator[Path]:
    """A state folder that others can be let through to."""
    if why := OwnUser(Ground(Path("/nowhere"))).missing()[0]:
        pytest.skip(f"level `user` cannot be tried here: {why}")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        found = Path(folder, "state")
        found.mkdir(0o700)
        (found / "identity.key").write_text("private")
        (found / "settings.toml").write_text("private")
        yield found


def ran(state: Path, script: str, *writable: Path) -> "subprocess.CompletedProcess[str]":
    cage = Cage(writable, network=JobNetwork.FULL)
    enclosure = OwnUser(Ground(state / "isolation")).enclose(cage)
    argv, env = command(enclosure, ("sh", "-c", script), {"PATH": os.environ["PATH"]})
    return subprocess.run(argv, env=env, cwd=writable[0], capture_output=True, text=True, check=False)


def folder(state: Path, name: str) -> Path:
    made = state / "runs" / name / "job"
    made.mkdir(parents=True)
    (made / "file").write_text(name)
    return made


def test_a_job_owns_its_folders_and_reads_nothing_of_the_state_folder(state: Path) -> None:
    own, other = folder(state, "one"), folder(state, "two")
    ran(state, "true", other)
    places = f"{state}/identity.key {state}/settings.toml {other}/file"
    script = (
        f"id -u; cat file; echo new > made; for f in {places}; do cat $f && echo READ; done; "
        f"ls {state} {state}/runs && echo LISTED; echo said > /dev/stderr"
    )
    done = ran(state, script, own)
    uid, content = done.stdout.splitlines()
    assert (int(uid) >= 0x7A000000, content, "said" in done.stderr) == (True, "one", True)
    assert (own / "made").stat().st_uid == int(uid)
    assert other.stat().st_uid != int(uid)


def test_what_training_needs_works_under_a_uid_of_its_own(state: Path) -> None:
    """Workers, shared memory, descriptors that travel, two processes that meet on loopback."""
    own = folder(state, "one")
    for name, script in (("pool.py", POOL), ("fds.py", FDS), ("meet.py", RENDEZVOUS)):
        (own / name).write_text(script)
    done = ran(
        state,
        "export TMPDIR=.; " + " && ".join(f"{SYSTEM} {name}.py" for name in ("pool", "fds", "meet")),
        own,
    )
    assert done.stdout == "pool works\ndescriptors travel\ntwo processes met\n", done.stderr


def test_a_state_folder_that_others_cannot_be_let_through_to_is_refused(state: Path) -> None:
    state.parent.chmod(0o700)
    with pytest.raises(ConfigError, match=r"cannot pass through .*--state /var/lib/pushtrain"):
        ran(state, "true", folder(state, "one"))


def test_what_is_new_in_the_state_folder_is_kept_from_the_next_job(state: Path) -> None:
    own = folder(state, "one")
    ran(state, "true", own)
    (state / "notes.json").write_text("private")
    (state / "outbox").mkdir(0o755)
    (state / "outbox" / "command").write_text("private")
    assert ran(state, f"cat {state}/notes.json {state}/outbox/command; cat file", own).stdout == "one"


def test_another_look_at_the_state_folder_does_not_shut_running_jobs_out(state: Path) -> None:
    """Every verb makes sure of the folder when it starts."""
    own = folder(state, "one")
    ran(state, "true", own)
    StateFolder(state).create()
    enclosure = OwnUser(Ground(state / "isolation")).enclose(Cage((own,), network=JobNetwork.FULL))
    StateFolder(state).create()
    argv, env = command(enclosure, ("cat", str(own / "file")), {"PATH": os.environ["PATH"]})
    assert subprocess.run(argv, env=env, cwd=own, capture_output=True, check=False).stdout == b"one"
    state.chmod(0o755)
    StateFolder(state).create()
    assert state.stat().st_mode & 0o777 == 0o700


PARENT = """
import ctypes, os, signal, sys, time
from pushtrain.plumbing.isolation import confine
wanted = {"lock": None, "status": None, "variables": None, "opened": {}, "held": False, "filter": "",
          "landlock": None, "uplink": False, "drop": False, "user": [34567, 34567], "groups": [],
          "trees": TREES}
if not (child := os.fork()):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    confine.apply(wanted, lock=-1, status=-1)
    os.write(1, f"{os.getpid()} {os.getuid()}\\n".encode())
    signal.pause()
os.waitpid(child, 0)
"""


@pytest.mark.parametrize("trees", ["None", "[]"])
def test_who_has_become_another_still_ends_with_its_parent(trees: str) -> None:
    """The kernel forgets the parent when a process changes its uid: the job would outlive its shim."""
    if not jobuser.wanted():
        pytest.skip("only root becomes others")
    environ = {**os.environ, "PYTHONPATH": str(Path(pushtrain.__file__).parents[1])}
    script = PARENT.replace("TREES", trees)
    with subprocess.Popen((sys.executable, "-c", script), env=environ, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child, uid = map(int, parent.stdout.readline().split())
        assert uid == (34567 if trees == "None" else 0), "in a namespace of its own it is root"
        parent.kill()
        assert proc.ended_within(child, 10)


def test_neither_links_nor_other_names_give_a_job_what_is_not_its_own(state: Path) -> None:
    own, private = folder(state, "one"), state / "identity.key"
    (own / "link").symlink_to(private)
    (own / "folder").symlink_to(state)
    os.link(private, own / "name")
    ran(state, "true", own)
    assert (private.stat().st_uid, state.stat().st_uid) == (0, 0)


def test_the_canary_finds_what_the_level_stops(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path(SYSTEM).exists():
        pytest.skip(f"another user cannot run this Python, and there is no {SYSTEM}")
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    machine = Machine(state / "isolation" / "trials", state, (state / "identity.key",))
    findings = try_level(OwnUser(Ground(state / "isolation")), machine, JobNetwork.FULL)
    assert findings.through(JobNetwork.FULL) == ()
    assert state.stat().st_mode & 0o777 == 0o700, "who only looks leaves no way open"
    stopped = (
        Act.STATE,
        Act.ENVIRON,
        Act.SIGNAL,
        Act.TRACE,
        Act.OTHER_RUN,
        Act.MODES,
        Act.PRIVILEGES,
    )
    assert {findings.results[act] for act in stopped} == {Result.DENIED}
