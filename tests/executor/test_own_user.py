"""Jobs under a uid of their own: what that keeps from them, and what it must not give them."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pushtrain.adapters.sandboxes import Ground
from pushtrain.adapters.sandboxes.user import OwnUser
from pushtrain.core.canaries import Act, Result
from pushtrain.core.errors import ConfigError
from pushtrain.core.model import JobNetwork
from pushtrain.plumbing.inside import command
from pushtrain.plumbing.nearby import Machine
from pushtrain.plumbing.trial import try_level
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


def test_a_state_folder_that_others_cannot_be_let_through_to_is_refused(state: Path) -> None:
    state.parent.chmod(0o700)
    with pytest.raises(ConfigError, match=r"cannot pass through .*--state /var/lib/pushtrain"):
        ran(state, "true", folder(state, "one"))


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
