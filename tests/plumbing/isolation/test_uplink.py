"""Uplinks: public addresses are reached and nothing else, whatever a job does; nothing is left behind.

The owner's machine, its LAN and a small internet are network namespaces of the test (owners_network.py).
What counts is what the servers there have seen, not what an attack reports.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from network_attacks import FORBIDDEN
from owners_network import CAMPUS, NEIGHBOURS, PUBLIC, OwnersNetwork, open_folder
from pushtrain.core.errors import ConfigError
from pushtrain.plumbing.isolation.inside import command as inside_of
from pushtrain.plumbing.isolation.uplink import RESOLVER, Uplink, Uplinks
from pushtrain.plumbing.programs import proc, process
from pushtrain.ports import Confinement, Enclosure
from pushtrain.testing import wait_until

HERE = Path(__file__).parents[2]
ATTACKS = HERE / "network_attacks.py"
BUBBLEWRAP = (
    "bwrap",
    "--unshare-user",
    "--unshare-pid",
    "--cap-drop",
    "ALL",
    "--bind",
    "/",
    "/",
    "--dev",
    "/dev",
)
ORDINARY = ("setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups")
GET = (
    "import socket, sys; one = socket.create_connection((sys.argv[1], int(sys.argv[2])), 3);"
    "print(one.getpeername()[0], one.recv(5))"
)


@pytest.fixture(autouse=True)
def _nobody_reached_yet(request: pytest.FixtureRequest) -> None:
    if "network" in request.fixturenames:
        request.getfixturevalue("network").forget()


class Attempt:
    """An executor's process on the owner's machine that has taken one uplink."""

    def __init__(self, talk: "subprocess.Popen[str]") -> None:
        self._talk = talk
        self.about = self._read()

    def _read(self) -> dict[str, Any]:
        assert self._talk.stdout is not None
        found: dict[str, Any] = json.loads(self._talk.stdout.readline())
        return found

    def run(self, *words: str | Path) -> dict[str, Any]:
        """Run a command in the uplink."""
        assert self._talk.stdin is not None
        self._talk.stdin.write(json.dumps([*map(str, words)]) + "\n")
        self._talk.stdin.flush()
        return self._read()

    def get(self, host: str, port: int = 80) -> str:
        """What a connection to a server says, or the last line of the complaint."""
        done = self.run(python(), "-c", GET, host, str(port))
        return str(done["out"] or done["err"]).strip().splitlines()[-1]

    def kill(self) -> None:
        """Kill the executor outright."""
        self._talk.kill()
        self._talk.wait()


def python() -> str:
    """A Python that an ordinary user can start, too."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    real = Path(sys.executable).resolve()
    if all(one.stat().st_mode & 0o5 == 0o5 for one in real.parents):
        return sys.executable
    return shutil.which(name, path="/usr/bin:/usr/local/bin") or pytest.skip(f"only root can start {real}")


@contextlib.contextmanager
def attempt(
    network: OwnersNetwork, *, user: tuple[str, ...] = (), around: tuple[str, ...] = BUBBLEWRAP
) -> Iterator[Attempt]:
    """An attempt of an executor that runs as this user."""
    where = [one for one in sys.path if one] + [str(HERE.parent / "src")]
    with open_folder() as folder:
        (folder / "resolv.conf").write_text(f"nameserver {RESOLVER}\n")
        if around:
            around = (*around, "--ro-bind", str(folder / "resolv.conf"), "/etc/resolv.conf")
        words = (*user, python(), str(HERE / "uplink_driver.py"), str(folder), *around)
        with subprocess.Popen(
            network.inside(words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": ":".join(where), "PYTHONDONTWRITEBYTECODE": "1"},
        ) as talk:
            assert talk.stdin is not None
            try:
                yield Attempt(talk)
            finally:
                with contextlib.suppress(BrokenPipeError):
                    talk.stdin.close()
                talk.wait(timeout=20)


@pytest.fixture(params=[(), ORDINARY], ids=["root", "ordinary"])
def inside(request: pytest.FixtureRequest, network: OwnersNetwork) -> Iterator[Attempt]:
    with attempt(network, user=request.param) as found:
        assert found.about == {"keeper": found.about.get("keeper"), "own_user_namespace": bool(request.param)}
        yield found


def test_a_job_reaches_public_addresses_and_names(inside: Attempt, network: OwnersNetwork) -> None:
    assert inside.get(PUBLIC) == f"{PUBLIC} b'hello'"
    assert inside.get("public.test") == f"{PUBLIC} b'hello'"
    assert {f"tcp {PUBLIC}:80"} <= network.reached()


def test_what_comes_in_through_an_uplink_is_counted(inside: Attempt) -> None:
    uplink = Uplink(inside.about["keeper"], -1, -1, None)
    before = uplink.received()
    assert before is not None
    inside.get(PUBLIC)
    first = uplink.received()
    assert first is not None
    assert before + 5 < first < before + 10_000
    assert Uplink(2**22, -1, -1, None).received() is None


@pytest.mark.slow
def test_a_job_reaches_nothing_of_the_owners_in_any_way(inside: Attempt, network: OwnersNetwork) -> None:
    done = inside.run(python(), ATTACKS)
    results = json.loads(done["out"])
    assert len(results) > 100
    assert {way for way, result in results.items() if result == "reached"} == set()
    assert network.reached() == set()
    assert inside.get(PUBLIC) == f"{PUBLIC} b'hello'", "the uplink itself still works"


@pytest.mark.slow
def test_a_name_that_turns_private_leads_nowhere(inside: Attempt, network: OwnersNetwork) -> None:
    answers = {inside.get("rebind.test") for _ in range(6)}
    assert f"{PUBLIC} b'hello'" in answers
    assert not any(NEIGHBOURS[1] in one for one in answers)
    assert "No route to host" in inside.get("lan.test")
    assert network.reached() <= {f"tcp {PUBLIC}:80", "udp 192.168.77.1:53"}


@pytest.mark.slow
def test_all_power_over_its_own_namespace_opens_no_way(network: OwnersNetwork) -> None:
    """The router decides: even a job that could change its routes reaches nothing more."""
    for user in ((), ORDINARY):
        with attempt(network, user=user, around=()) as one:
            caps = () if not user else ("unshare", "--user", "--map-root-user")
            for refused in ("192.168.0.0/16", "10.0.0.0/8", "169.254.0.0/16"):
                one.run(*caps, "ip", "route", "del", "unreachable", refused)
            for address in FORBIDDEN:
                one.run("ip", "route", "replace", address, "via", "10.0.2.1", "dev", "eth0", "onlink")
            results = json.loads(one.run(python(), ATTACKS)["out"])
            assert network.reached() == set(), user
            assert results["tcp 192.168.77.5"] != "reached"


@pytest.mark.slow
def test_a_network_that_the_machine_joins_later_is_refused(network: OwnersNetwork) -> None:
    with attempt(network) as one:
        assert one.get(CAMPUS) == f"{CAMPUS} b'hello'", "so far it is somewhere on the internet"
        network.run("ip", "addr", "add", "141.20.1.2/24", "dev", "lan0")
        try:
            wait_until(lambda: "hello" not in one.get(CAMPUS))
            network.forget()
            assert "hello" not in one.get("141.20.1.2"), "nor is the machine itself reached there"
            assert network.reached() == set()
        finally:
            network.run("ip", "addr", "del", "141.20.1.2/24", "dev", "lan0")
        with attempt(network) as other:
            assert other.get(CAMPUS) == f"{CAMPUS} b'hello'"


def test_a_network_that_the_machine_is_in_is_refused_from_the_start(
    network: OwnersNetwork,
) -> None:
    network.run("ip", "addr", "add", "141.20.1.2/24", "dev", "lan0")
    try:
        with attempt(network) as one:
            assert "No route to host" in one.get(CAMPUS)
            assert "No route to host" in one.get("141.20.1.2")
            assert network.reached() == set()
    finally:
        network.run("ip", "addr", "del", "141.20.1.2/24", "dev", "lan0")


@pytest.mark.slow
def test_attempts_cannot_reach_each_other(network: OwnersNetwork) -> None:
    listen = (
        "import os, socket\none = socket.create_server(('', 7000))\n"
        "if os.fork() == 0:\n  os.setsid(); os.close(1); os.close(2); one.settimeout(10); one.accept()\n"
    )
    with attempt(network, around=()) as one, attempt(network, around=()) as other:
        assert one.run(python(), "-c", listen)["code"] == 0
        for address in ("10.0.2.100", "10.0.2.1", "127.0.0.1", "192.168.77.2"):
            complaint = other.get(address, 7000)
            assert "refused" in complaint or "No route" in complaint
        assert "IndexError" in one.run(python(), "-c", GET, "127.0.0.1")["err"]
        assert one.get("127.0.0.1", 7000) == "127.0.0.1 b''", "its own loopback works"


# --- beginning and end ------------------------------------------------------------------------------------


def alive(keeper: int) -> list[int]:
    return [one for one in (keeper, *proc.descendants(keeper)) if proc.start_time(one) is not None]


@pytest.fixture
def uplinks(no_uplinks: str, tmp_path: Path) -> Iterator[Uplinks]:
    if no_uplinks:
        pytest.skip(no_uplinks)
    found = Uplinks(tmp_path)
    yield found
    found.close()


def gone(pids: list[int]) -> bool:
    return not any((found := proc.stat(pid)) and found.state not in "ZX" for pid in pids)


def test_an_uplink_ends_with_the_last_who_holds_it(uplinks: Uplinks) -> None:
    one = uplinks.take()
    pids = alive(one.pid)
    assert Path(f"/proc/{pids[-1]}/comm").read_text() == "slirp4netns\n"
    held = os.dup(one.control)
    one.close()
    assert not gone(pids)
    os.close(held)
    wait_until(lambda: gone(pids))


def test_an_uplink_is_entered_whatever_numbers_its_descriptors_have(uplinks: Uplinks) -> None:
    with contextlib.closing(uplinks.take()) as one:
        taken = Confinement(uplink=True, opened={one.net: "/etc/hostname"}, status=one.descriptors[-1])
        words = ("readlink", "/proc/self/ns/net")
        argv, env = inside_of(Enclosure(confinement=taken), words, {"PATH": os.environ["PATH"]}, one)
        done = process.run(argv, env=env, pass_fds=one.descriptors)
        assert (done.complaint, done.code) == ("", 0)
        assert done.text == str(Path(f"/proc/self/fd/{one.net}").readlink())


def test_an_uplink_does_not_outlive_an_executor_that_is_killed(inside: Attempt) -> None:
    pids = alive(inside.about["keeper"])
    assert len(pids) == (3 if inside.about["own_user_namespace"] else 2)
    inside.kill()
    wait_until(lambda: gone(pids))


def test_slirp4netns_does_not_outlive_its_keeper(inside: Attempt) -> None:
    *_, keeper, slirp = pids = alive(inside.about["keeper"])
    assert Path(f"/proc/{slirp}/comm").read_text() == "slirp4netns\n"
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: gone(pids))
    assert "hello" not in inside.get(PUBLIC)


def test_a_keeper_does_not_outlive_slirp4netns(uplinks: Uplinks) -> None:
    """An uplink whose forwarder has ended reaches nothing; it is not given to anybody."""
    one = uplinks.take()
    pids = alive(one.pid)
    os.kill(pids[-1], signal.SIGKILL)
    wait_until(lambda: gone(pids))
    one.close()


def test_one_is_ready_before_it_is_asked_for_and_each_is_another(uplinks: Uplinks) -> None:
    assert uplinks.missing() == ("", "")
    taken = [uplinks.take() for _ in range(3)]
    spaces = {os.fstat(one.net).st_ino for one in taken}
    assert len(spaces) == 3
    for one in taken:
        one.close()


def test_a_spare_that_died_is_not_given_out(uplinks: Uplinks) -> None:
    uplinks.missing()
    spare = uplinks._spare
    assert isinstance(spare, Uplink)
    os.kill(spare.pid, signal.SIGKILL)
    wait_until(lambda: not spare.alive())
    one = uplinks.take()
    assert one.pid != spare.pid
    assert one.alive()
    one.close()


def test_keepers_are_reaped(uplinks: Uplinks) -> None:
    one = uplinks.take()
    one.close()
    wait_until(lambda: gone([one.pid]))
    uplinks.take().close()
    assert proc.stat(one.pid) is None


# --- what is missing --------------------------------------------------------------------------------------


def test_a_missing_slirp4netns_is_told_with_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    why, mend = Uplinks(tmp_path).missing()
    assert "slirp4netns is not installed" in why
    assert "`sudo apt install slirp4netns`" in mend
    with pytest.raises(ConfigError, match="apt install"):
        Uplinks(tmp_path).take()


@pytest.mark.usefixtures("uplinks")
def test_a_slirp4netns_that_fails_says_why(tmp_path: Path) -> None:
    program = tmp_path / "slirp4netns"
    program.write_text("#!/bin/sh\necho first >&2\necho no such luck >&2\nexit 1\n")
    program.chmod(0o755)
    why, _ = Uplinks(tmp_path, str(program)).missing()
    assert "no such luck" in why


def test_a_missing_tun_is_told_with_the_mend(network: OwnersNetwork) -> None:
    with hidden_tun(network, "umount /dev/net/tun; mount -t tmpfs none /dev/net") as about:
        assert "There is no /dev/net/tun" in about["why"]
        assert "`sudo modprobe tun`" in about["mend"]


def test_a_tun_that_may_not_be_opened_is_told_with_the_mend(network: OwnersNetwork) -> None:
    with hidden_tun(network, "umount /dev/net/tun; chmod 600 /dev/net/tun", ORDINARY) as about:
        assert "may not be opened" in about["why"]
        assert "`sudo chmod 0666 /dev/net/tun`" in about["mend"]


def test_user_namespaces_that_are_forbidden_are_told_with_the_mend(
    network: OwnersNetwork,
) -> None:
    forbid = (
        "unshare --user --map-root-user sh -c 'echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\"' -"
    )
    with attempt(network, user=("sh", "-c", f'exec {forbid} "$@"', "-", *without_capabilities())) as one:
        assert "this machine allows no user namespaces" in one.about["why"]
        assert "sudo sysctl" in one.about["mend"]


def without_capabilities() -> tuple[str, ...]:
    return ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")


@contextlib.contextmanager
def hidden_tun(network: OwnersNetwork, how: str, user: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """What an executor says in a mount namespace in which this was done."""
    script = f'{how}; exec "$@"'
    words = ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "-", *user)
    with attempt(network, user=words) as one:
        yield one.about


def test_the_words_that_enter_are_tried_by_others_in_vain(uplinks: Uplinks) -> None:
    """A descriptor that was not handed over is no way in."""
    one = uplinks.take()
    done = subprocess.run((*one.enter, "true"), capture_output=True, check=False)
    assert done.returncode != 0
    one.close()
