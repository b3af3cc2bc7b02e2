"""The ladder's canaries: every level is entered, and every act that a job must not do is tried there.

The tests below the matrix take one defence away each and see the canary find it out.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import pushtrain
from pushtrain.adapters.sandboxes import Ground, registry
from pushtrain.adapters.sandboxes.confined import Confined
from pushtrain.adapters.sandboxes.none import Unconfined
from pushtrain.adapters.sandboxes.sandbox import Bubblewrap
from pushtrain.core.owner.canaries import KNOWN, Act, Findings, Result
from pushtrain.core.values.isolation import Isolation, JobNetwork
from pushtrain.plumbing.isolation import jobuser
from pushtrain.plumbing.isolation.nearby import Machine
from pushtrain.plumbing.isolation.trial import TrialError, try_level
from pushtrain.ports import Cage, Enclosure, Sandbox
from pushtrain.wiring.parts import adapter

SOURCE = str(Path(pushtrain.__file__).parents[1])
SAME_USERS = () if jobuser.wanted() else (Act.SIGNAL, Act.SHARED_MEMORY)
"""What a namespace alone keeps from a process of the same user; root's jobs have a user of their own."""
SAID = {Act.HOME, Act.SSH_KEYS, Act.STATE, Act.OTHER_RUN, Act.ENVIRON, Act.SIGNAL, Act.TRACE, Act.WRITE}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """An owner with a home, keys, and a state folder."""
    home, state = tmp_path / "home", tmp_path / "state"
    for path in (home / "letters.txt", home / ".ssh" / "id_ed25519", state / "identity.key"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("private")
    runtime = tmp_path / "run"
    runtime.mkdir()
    environ = {"XDG_RUNTIME_DIR": str(runtime)}
    return Machine(state / "trials", state, (state / "identity.key",), home=home, environ=environ)


def offered(name: str, tmp_path: Path) -> Sandbox:
    sandbox: Sandbox = adapter(registry[name], Ground(tmp_path / "state" / "isolation"))
    why, _ = sandbox.missing()
    if why:
        pytest.skip(f"level `{name}` cannot be tried here: {why}")
    return sandbox


def tried(sandbox: Sandbox, machine: Machine, network: JobNetwork = JobNetwork.FULL) -> Findings:
    try:
        return try_level(sandbox, machine, network)
    except TrialError as error:
        pytest.skip(f"level `{sandbox.level}` cannot be entered here: {sandbox.explain(str(error))[0]}")


@pytest.mark.parametrize("name", list(registry))
def test_each_level_stops_all_that_it_claims_to_stop(name: str, tmp_path: Path, machine: Machine) -> None:
    findings = tried(offered(name, tmp_path), machine)
    assert set(findings.results) == set(Act)
    assert findings.through(JobNetwork.FULL) == ()
    kept = {act for act in SAID - KNOWN[findings.level] if findings.results[act] is Result.DENIED}
    assert kept == SAID - KNOWN[findings.level], "nothing of these is absent here"


def test_without_isolation_the_canary_can_do_what_it_tries(tmp_path: Path, machine: Machine) -> None:
    findings = tried(offered("none", tmp_path), machine)
    harmless = {Act.COMMAND_LINES, Act.MODES, Act.ABSTRACT, Act.LOOPBACK, Act.SHARED_MEMORY, Act.PRIVILEGES}
    done = {act for act, result in findings.results.items() if result is Result.DONE}
    assert SAID | harmless <= done


def test_nothing_of_a_trial_is_left(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda size: f"{os.getpid():0{2 * size}d}")
    tried(offered("none", tmp_path), machine)
    assert list(machine.folder.iterdir()) == []
    assert not [path for path in tmp_path.rglob("pushtrain-canary*") if path.is_file()]
    shared = Path("/dev/shm")  # noqa: S108  it is there
    assert not list(shared.glob(f"pushtrain-canary-*{os.getpid()}"))


@contextmanager
def listening(path: Path) -> Iterator[None]:
    """Somebody who takes connections at a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        yield


@pytest.mark.parametrize(
    ("act", "where"),
    [
        (Act.SESSION_BUS, "run/bus"),
        (Act.CONTAINERS, "run/docker.sock"),
        (Act.SSH_AGENT, "run/ssh-agent.socket"),
        (Act.GPG_AGENT, "run/gnupg/S.gpg-agent"),
        (Act.WAYLAND, "run/wayland-0"),
        (Act.GPG_AGENT, "home/.gnupg/S.gpg-agent"),
    ],
)
def test_confined_is_not_offered_where_a_socket_is_within_reach(
    act: Act, where: str, tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    confined = offered("confined", tmp_path)
    monkeypatch.setattr(confined, "_look_around", lambda: None)
    with listening(tmp_path / where):
        assert tried(confined, machine).through(JobNetwork.FULL) == (act,)
        sandbox = offered("sandbox", tmp_path)
        assert tried(sandbox, machine).results[act] is Result.DENIED


@pytest.mark.parametrize(
    ("variable", "act"), [("SSH_AUTH_SOCK", Act.SSH_AGENT), ("DOCKER_HOST", Act.CONTAINERS)]
)
def test_a_socket_that_a_variable_names_is_tried_too(
    variable: str, act: Act, tmp_path: Path, machine: Machine
) -> None:
    where = tmp_path / "elsewhere.sock"
    named = Machine(
        machine.folder, machine.state, machine.private, machine.home, {variable: f"unix://{where},guid=1"}
    )
    with listening(where):
        assert tried(offered("none", tmp_path), named).results[act] is Result.DONE


def test_a_confined_job_does_not_start_once_a_bus_has_come_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    confined = offered("confined", tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    confined.enclose(Cage(network=JobNetwork.FULL))
    with (
        listening(tmp_path / "bus"),
        pytest.raises(Exception, match=r"could reach the session bus: .*bus has come up"),
    ):
        confined.enclose(Cage(network=JobNetwork.FULL))


class Weakened:
    """A level with a part of it taken away."""

    def __init__(self, sandbox: Sandbox, *, without: tuple[str, ...] = (), **confinement: object) -> None:
        self.level = sandbox.level
        self.missing = sandbox.missing
        self.explain = sandbox.explain
        self._sandbox = sandbox
        self._without = without
        self._confinement = confinement

    def enclose(self, cage: Cage) -> Enclosure:
        whole = self._sandbox.enclose(cage)
        prefix = list(whole.prefix)
        for word in self._without:
            at = prefix.index(word)
            del prefix[at : at + (1 if prefix[at + 1].startswith("--") else 2)]
        changes = {"prefix": tuple(prefix)}
        if self._confinement:
            changes["confinement"] = whole.confinement.model_copy(update=self._confinement)  # type: ignore[assignment]
        return whole.model_copy(update=changes)


@pytest.mark.parametrize(
    ("without", "found"),
    [
        (("--unshare-pid",), {Act.COMMAND_LINES, *SAME_USERS[:1]}),
        (("--unshare-ipc",), {*SAME_USERS[1:]}),
        (("--unshare-net",), {Act.LOOPBACK, Act.ABSTRACT}),
        (("--seccomp",), {Act.NAMESPACES, Act.KERNEL, Act.SOCKETS}),
    ],
)
def test_a_defence_that_bubblewrap_is_not_asked_for_is_found_out(
    without: tuple[str, ...], found: set[Act], tmp_path: Path, machine: Machine
) -> None:
    whole = offered("sandbox", tmp_path)
    assert not tried(whole, machine, JobNetwork.NONE).through(JobNetwork.NONE)
    weak = Weakened(whole, without=without)
    assert set(tried(weak, machine, JobNetwork.NONE).through(JobNetwork.NONE)) >= found


@pytest.mark.skipif(not jobuser.wanted(), reason="only root's jobs could be root")
def test_roots_jobs_that_stay_root_are_found_out(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = offered("sandbox", tmp_path)
    mended = {Act.SET_UID, Act.ROOTS_FILES, Act.SETTINGS}
    assert {tried(whole, machine).results[act] for act in mended} == {Result.DENIED}
    monkeypatch.setattr(jobuser, "wanted", lambda: False)
    assert set(tried(whole, machine).through(JobNetwork.FULL)) == mended


@pytest.mark.parametrize(
    ("shown", "act"),
    [
        ("home", Act.HOME),
        ("home/.ssh", Act.SSH_KEYS),
        ("state", Act.STATE),
        ("state/trials", Act.OTHER_RUN),
    ],
)
def test_a_folder_that_is_shown_by_mistake_is_found_out(
    shown: str, act: Act, tmp_path: Path, machine: Machine
) -> None:
    class Careless(Bubblewrap):
        def enclose(self, cage: Cage) -> Enclosure:
            return super().enclose(
                Cage(cage.writable, (*cage.readable, tmp_path / shown), network=cage.network)
            )

    offered("sandbox", tmp_path)
    careless = Careless(Ground(tmp_path / "state" / "isolation"))
    assert act in tried(careless, machine).through(JobNetwork.FULL)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"landlock": None}, {Act.HOME, Act.SIGNAL, Act.WRITE, Act.ABSTRACT}),
        ({"filter": ""}, {Act.NAMESPACES, Act.KERNEL, Act.SOCKETS}),
    ],
)
def test_a_defence_that_confined_leaves_out_is_found_out(
    changes: dict[str, Any], found: set[Act], tmp_path: Path, machine: Machine
) -> None:
    weak = Weakened(offered("confined", tmp_path), **changes)
    assert {act for act, result in tried(weak, machine).results.items() if result is Result.DONE} >= found


def test_root_with_capabilities_reads_the_executors_variables_in_spite_of_landlock(
    tmp_path: Path, machine: Machine
) -> None:
    if os.getuid():
        pytest.skip("only root has capabilities to leave in place")
    weak = Weakened(offered("confined", tmp_path), drop=False)
    assert Act.PRIVILEGES in tried(weak, machine).through(JobNetwork.FULL)


PROGRAM = """
import json, sys
from pathlib import Path
from pushtrain.adapters.sandboxes import Ground, registry
from pushtrain.core.values.isolation import JobNetwork
from pushtrain.plumbing.isolation.nearby import Machine
from pushtrain.plumbing.isolation.trial import try_level
from pushtrain.wiring.parts import adapter
state = Path(sys.argv[1])
state.mkdir(0o700)
(state / "identity.key").write_text("private")
sandbox = adapter(registry[sys.argv[2]], Ground(state / "isolation"))
assert not sandbox.missing()[0], sandbox.missing()
if "bare" in sys.argv:
    whole = sandbox.enclose
    def enclose(cage):
        enclosure = whole(cage)
        bare = enclosure.confinement.model_copy(update={"landlock": None})
        return enclosure.model_copy(update={"confinement": bare})
    sandbox.enclose = enclose
machine = Machine(state / "trials", state, (state / "identity.key",))
print(try_level(sandbox, machine, JobNetwork.FULL).model_dump_json())
"""


def as_a_user(*words: str, within: tuple[str, ...] = ()) -> Findings:
    """The findings of an executor that an ordinary user runs, within something or not."""
    python = f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    if os.getuid() or not shutil.which("setpriv"):
        pytest.skip("only root can become another user, and these tests have been run by one already")
    if not Path(python).exists():
        pytest.skip(f"another user cannot run this Python, and there is no {python}")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chown(folder, 34567, 34567)
        packages = [path for path in sys.path if path.endswith("site-packages")]
        env = {"PATH": os.environ["PATH"], "HOME": folder, "PYTHONPATH": os.pathsep.join([SOURCE, *packages])}
        become = ("setpriv", "--reuid", "34567", "--regid", "34567", "--clear-groups")
        argv = (*become, *within, python, "-B", "-P", "-c", PROGRAM, f"{folder}/state", *words)
        done = subprocess.run(argv, env=env, cwd="/", capture_output=True, text=True, check=False)
    if "Permission denied" in done.stderr and "site-packages" in done.stderr:
        pytest.skip("another user cannot read where pushtrain is installed")
    assert done.returncode == 0, done.stderr
    return Findings.model_validate_json(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sandbox", "confined"])
def test_the_levels_hold_for_an_executor_of_an_ordinary_user(name: str, tmp_path: Path) -> None:
    offered(name, tmp_path)
    findings = as_a_user(name)
    assert findings.through(JobNetwork.FULL) == ()
    assert {findings.results[act] for act in (Act.ENVIRON, Act.TRACE, Act.SIGNAL, Act.STATE)} == {
        Result.DENIED
    }


@pytest.mark.slow
def test_the_sandbox_holds_for_root_of_an_ordinary_users_namespace(tmp_path: Path) -> None:
    """As in a container that a user runs: there our uid 0 is that user's."""
    offered("sandbox", tmp_path)
    findings = as_a_user("sandbox", within=("unshare", "--user", "--map-root-user"))
    assert findings.through(JobNetwork.FULL) == ()


@pytest.mark.skipif(not jobuser.wanted(), reason="only root makes a namespace in which it is root outside")
def test_a_root_that_may_be_the_machines_and_cannot_become_others_is_not_offered_the_sandbox(
    tmp_path: Path,
) -> None:
    offered("sandbox", tmp_path)
    environ = {**os.environ, "PYTHONPATH": SOURCE}
    argv = (
        "unshare",
        "--user",
        "--map-root-user",
        sys.executable,
        "-P",
        "-c",
        PROGRAM,
        str(tmp_path / "s"),
        "sandbox",
    )
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=True)
    assert Act.SET_UID in Findings.model_validate_json(done.stdout).through(JobNetwork.FULL)


@pytest.mark.slow
def test_without_landlock_a_users_job_reads_the_executors_variables(tmp_path: Path) -> None:
    offered("confined", tmp_path)
    done = {Act.ENVIRON, Act.TRACE, Act.SIGNAL, Act.STATE, Act.WRITE, Act.ABSTRACT}
    assert done <= set(as_a_user("confined", "bare").through(JobNetwork.NONE))


def test_a_level_that_cannot_be_entered_says_what_was_said(tmp_path: Path, machine: Machine) -> None:
    class Broken(Unconfined):
        def enclose(self, cage: Cage) -> Enclosure:
            return Enclosure(prefix=("sh", "-c", "echo 'no way in' >&2; exit 1"))

    with pytest.raises(TrialError, match="no way in"):
        try_level(Broken(Ground(tmp_path)), machine, JobNetwork.FULL)


def test_loopback_counts_only_where_jobs_have_no_business_there() -> None:
    reached = dict.fromkeys(Act, Result.DENIED) | {Act.LOOPBACK: Result.DONE}
    findings = Findings(level=Isolation.SANDBOX, results=reached)
    assert findings.through(JobNetwork.NONE) == (Act.LOOPBACK,)
    assert findings.through(JobNetwork.INTERNET) == (Act.LOOPBACK,)
    assert findings.through(JobNetwork.FULL) == ()
    assert Confined.level is Isolation.CONFINED
