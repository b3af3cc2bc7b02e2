"""The owner's signals: each one's real source, recorded or stood in for; each present or "cannot tell"."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pushtrain.core.owner.lending import OwnerRules
from pushtrain.plumbing.owner import desktop, presence, sessions, windows, workload
from pushtrain.plumbing.owner.desktop import Screen, Screens
from pushtrain.plumbing.owner.presence import Presence
from pushtrain.plumbing.owner.sessions import Session, parsed, typed_at
from pushtrain.plumbing.programs import proc
from pushtrain.testing import NOON, Clock, wait_until

RECORDED = """\
Id=2
User=1000
Class=user
Type=x11
State=active
Display=:0
TTY=tty2
IdleHint=yes
IdleSinceHint=1789999400000000

Id=c1
User=127
Class=greeter
Type=wayland
State=online
Display=
TTY=
IdleHint=no
IdleSinceHint=0

Id=7
User=1001
Class=user
Type=tty
State=active
Display=
TTY=pts/3
IdleHint=no
IdleSinceHint=1789999990000000

Id=9
User=1000
Class=manager
Type=unspecified
State=active
Display=
TTY=
IdleHint=no
IdleSinceHint=0

Id=11
User=1000
Class=user
Type=tty
State=closing
Display=
TTY=
IdleHint=no
IdleSinceHint=0
"""
"""`loginctl show-session -p …` of systemd 252: a desktop, a greeter, an ssh login, a user's manager."""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Stand-ins that come first in PATH, each writing down how it was called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def put(name: str, script: str) -> Path:
        calls = folder / f"{name}.calls"
        file = folder / name
        file.write_text(f'#!/bin/sh\necho "$DISPLAY $XAUTHORITY $*" >> {calls}\n{script}\n')
        file.chmod(0o755)
        return calls

    return put


# --- who is logged in -------------------------------------------------------------------------------------


def test_people_are_told_from_greeters_and_managers() -> None:
    desk, ssh = parsed(RECORDED)
    assert (desk.id, desk.uid, desk.graphical, desk.display) == ("2", 1000, True, ":0")
    assert (ssh.id, ssh.uid, ssh.graphical) == ("7", 1001, False)


def test_a_desktop_is_idle_by_its_hint_and_a_terminal_by_its_last_key() -> None:
    desk, ssh = parsed(RECORDED)
    assert desk.untouched(NOON) == 600
    assert ssh.untouched(NOON) == 10
    assert Session("3", 1000, "wayland", idle=False, since=NOON - 9000).untouched(NOON) == 0


def test_logind_is_not_asked_where_nobody_is_logged_in(
    tmp_path: Path, programs: Callable[[str, str], Path]
) -> None:
    calls = programs("loginctl", "exit 1")
    assert sessions.sessions(tmp_path / "none") is None
    (tmp_path / "some").mkdir()
    assert sessions.sessions(tmp_path / "some") == ()
    assert not calls.exists()


def test_logind_is_asked_once_for_all_sessions(tmp_path: Path, programs: Callable[[str, str], Path]) -> None:
    for name in ("2", "c1", "7.ref", "7"):
        (tmp_path / name).touch()
    (tmp_path / "told").write_text(RECORDED)
    calls = programs("loginctl", f"cat {tmp_path / 'told'}")
    (tmp_path / "sessions").mkdir()
    for name in ("2", "c1", "7", "9", "11", "7.ref"):
        (tmp_path / "sessions" / name).touch()
    assert sessions.sessions(tmp_path / "sessions") == parsed(RECORDED)
    (call,) = calls.read_text().splitlines()
    assert "show-session -p Id" in call
    assert ".ref" not in call


def test_a_program_that_hangs_is_ended_and_tells_nothing(
    tmp_path: Path, programs: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushtrain.plumbing.programs.asking.PATIENCE", 0.1)
    (tmp_path / "2").touch()
    programs("loginctl", "exec sleep 600")
    begin = time.monotonic()
    assert sessions.sessions(tmp_path) is None
    assert time.monotonic() - begin < 4


def test_without_logind_a_terminals_last_key_is_looked_at() -> None:
    primary, terminal = os.openpty()
    try:
        os.write(primary, b"a line\n")
        os.read(terminal, 100)
        found = typed_at(time.time())
        assert found is not None
        assert found < 20  # the kernel tells it in steps of 8 s
    finally:
        os.close(primary)
        os.close(terminal)


def test_a_machine_without_terminals_cannot_tell(tmp_path: Path) -> None:
    (tmp_path / "pts").mkdir()
    (tmp_path / "null").touch()
    assert typed_at(NOON, (tmp_path / "pts", tmp_path)) is None


# --- the desktop ------------------------------------------------------------------------------------------

SCREEN = Screen(":7", "/home/ada/.Xauthority")


@pytest.mark.parametrize("name", ["xprintidle", "xssstate"])
def test_x_tells_how_long_nobody_touched_it(programs: Callable[[str, str], Path], name: str) -> None:
    calls = programs(name, "echo 61500")
    assert desktop.rested([SCREEN]) == 61.5
    assert calls.read_text().startswith(":7 /home/ada/.Xauthority")


def test_x_without_these_programs_cannot_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert desktop.rested([SCREEN]) is None
    assert desktop.full_screen([SCREEN]) is None
    assert desktop.rested([]) is None


ACTIVE = "_NET_ACTIVE_WINDOW: window id # 0x3e00007"


@pytest.mark.parametrize(
    ("state", "full"),
    [
        ("_NET_WM_STATE = _NET_WM_STATE_FULLSCREEN, _NET_WM_STATE_FOCUSED", True),
        ("_NET_WM_STATE = _NET_WM_STATE_MAXIMIZED_VERT", False),
        ("_NET_WM_STATE:  not found.", False),
    ],
)
def test_a_window_that_fills_the_screen_is_seen(
    programs: Callable[[str, str], Path], state: str, *, full: bool
) -> None:
    calls = programs("xprop", f'case "$1" in -root) echo "{ACTIVE}" ;; *) echo "{state}" ;; esac')
    assert desktop.full_screen([SCREEN]) is full
    assert "-id 0x3e00007" in calls.read_text()


def test_a_screen_without_a_window_is_not_full(programs: Callable[[str, str], Path]) -> None:
    programs("xprop", 'echo "_NET_ACTIVE_WINDOW: window id # 0x0"')
    assert desktop.full_screen([SCREEN]) is False


def test_the_display_of_whoever_is_logged_in_is_found_by_their_programs() -> None:
    child = subprocess.Popen(
        ("sleep", "600"), env={"DISPLAY": ":71", "XAUTHORITY": "/run/user/0/x", "PATH": "/usr/bin:/bin"}
    )
    try:
        wait_until(lambda: Path(f"/proc/{child.pid}/environ").read_bytes().startswith(b"DISPLAY"))
        session = Session("2", os.getuid(), "x11", display=":71")
        assert Screens({}).of([session]) == (Screen(":71", "/run/user/0/x"),)
        assert Screens({"DISPLAY": ":71"}).of([session]) == (Screen(":71"),)
        assert Screens({}).of([Session("3", 2**31, "x11", display=":71")]) == ()
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ('echo \'{"type":"i","data":2}\'', True),
        ('echo \'{"type":"i","data":0}\'', False),
        ("echo 'Failed to get property: The name is not activatable' >&2; exit 1", False),
        ("echo 'Failed to connect to bus: Connection refused' >&2; exit 1", None),
    ],
)
def test_gamemode_is_asked_on_the_users_own_bus_and_not_started(
    tmp_path: Path, programs: Callable[[str, str], Path], script: str, *, told: bool | None
) -> None:
    (tmp_path / "1000").mkdir()
    (tmp_path / "1000" / "bus").touch()
    programs("gamemoded", "exit 1")
    calls = programs("busctl", script)
    assert desktop.playing(parsed(RECORDED), tmp_path) is told
    call = calls.read_text()
    assert f"--address=unix:path={tmp_path}/1000/bus --auto-start=no" in call


def test_without_gamemode_nobody_plays_and_nobody_is_asked(programs: Callable[[str, str], Path]) -> None:
    calls = programs("busctl", "exit 1")
    assert desktop.playing(parsed(RECORDED)) is False
    assert not calls.exists()


# --- the machine ------------------------------------------------------------------------------------------


def supply(root: Path, name: str, **told: str) -> None:
    (root / name).mkdir(parents=True)
    for file, content in told.items():
        (root / name / file).write_text(f"{content}\n")


def test_a_laptop_without_its_plug_is_on_battery(tmp_path: Path) -> None:
    assert workload.on_battery(tmp_path / "none") is None
    supply(tmp_path, "BAT0", type="Battery", status="Discharging")
    supply(tmp_path, "AC", type="Mains", online="0")
    assert workload.on_battery(tmp_path) is True
    (tmp_path / "AC" / "online").write_text("1\n")
    assert workload.on_battery(tmp_path) is False


def test_the_battery_of_a_mouse_is_not_the_machines(tmp_path: Path) -> None:
    supply(tmp_path, "hidpp_battery_0", type="Battery", scope="Device", status="Discharging")
    assert workload.on_battery(tmp_path) is None


def a_process(root: Path, pid: int, comm: str, *words: str) -> None:
    (root / str(pid)).mkdir(parents=True)
    (root / str(pid) / "comm").write_text(f"{comm}\n")
    (root / str(pid) / "cmdline").write_bytes("\0".join(words).encode())


def test_a_slurm_job_is_seen_by_its_step(tmp_path: Path) -> None:
    a_process(tmp_path, 1, "init")
    assert workload.slurm_works(tmp_path) is None
    a_process(tmp_path, 20, "slurmd")
    a_process(tmp_path, 21, "slurmstepd", "/usr/sbin/slurmstepd", "infinity")
    assert workload.slurm_works(tmp_path) is False
    a_process(tmp_path, 22, "slurmstepd", "slurmstepd: [1234.0]")
    assert workload.slurm_works(tmp_path) is True


SPIN = "import os\nwhile os.times().user < 0.5: pass\nprint(flush=True)\nimport time\ntime.sleep(600)"


@pytest.fixture
def spinner() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has kept a processor busy for half a second, and then rests."""
    child = subprocess.Popen((sys.executable, "-c", SPIN), stdout=subprocess.PIPE)
    yield child
    proc.kill_tree(child.pid)
    child.communicate()


def test_our_own_work_is_no_load_of_the_owners(tmp_path: Path, spinner: subprocess.Popen[bytes]) -> None:
    """The same half second of work, read from the real process; what the whole machine did is given."""
    (tmp_path / "stat").write_text("cpu 0 0 0 1000 0 0 0 0 0 0\n")
    (tmp_path / str(spinner.pid)).symlink_to(f"/proc/{spinner.pid}")
    clock = Clock()
    theirs = workload.Load(tuple, proc=tmp_path, clock=clock)
    ours = workload.Load(lambda: [spinner.pid], proc=tmp_path, clock=clock)
    assert (theirs.look(), ours.look()) == (None, None)
    assert spinner.stdout is not None
    spinner.stdout.readline()
    clock.advance(1)
    ticks = os.sysconf("SC_CLK_TCK")
    (tmp_path / "stat").write_text(f"cpu {ticks // 2} 0 0 9000 0 0 0 0 0 0\n")
    found, left = theirs.look(), ours.look()
    assert found is not None
    assert left is not None
    assert found == pytest.approx(0.5)
    assert left < 0.15


# --- Windows ----------------------------------------------------------------------------------------------


def test_what_windows_says_is_understood() -> None:
    assert windows.heard("61500 5") == windows.Word(61.5, full_screen=False)
    assert windows.heard("120 3") == windows.Word(0.12, full_screen=True)
    assert windows.heard("Add-Type : error") is None
    assert windows.heard("") is None


def test_one_powershell_is_started_and_read_and_ended(
    tmp_path: Path, programs: Callable[[str, str], Path]
) -> None:
    pid = tmp_path / "pid"
    calls = programs("powershell.exe", f"echo $$ > {pid}; printf '61500 5\\r\\n700 '; exec sleep 600")
    clock = Clock()
    watch = windows.Windows(clock)
    assert wait_until(watch.look) == windows.Word(61.5, full_screen=False)
    clock.advance(60)
    assert watch.look() is None  # it has said nothing since
    assert len(calls.read_text().splitlines()) == 1
    assert "-NonInteractive -EncodedCommand" in calls.read_text()
    watch.close()
    assert proc.stat(int(pid.read_text())) is None


def test_a_powershell_that_fails_is_not_started_again_at_once(programs: Callable[[str, str], Path]) -> None:
    calls = programs("powershell.exe", "exit 1")
    clock = Clock()
    watch = windows.Windows(clock)
    watch.look()
    wait_until(lambda: watch.look() is None and calls.exists())
    for _ in range(5):
        clock.advance(10)
        assert watch.look() is None
    assert len(calls.read_text().splitlines()) == 1
    clock.advance(300)
    wait_until(lambda: watch.look() is None and len(calls.read_text().splitlines()) == 2)
    watch.close()


def test_wsl_is_known_by_its_kernel(tmp_path: Path) -> None:
    (tmp_path / "version").write_text("Linux version 6.6.87.2-microsoft-standard-WSL2 (root@x) #1 SMP")
    assert windows.is_wsl(tmp_path / "version")
    (tmp_path / "version").write_text("Linux version 6.12.0-amd64 (debian-kernel@lists.debian.org)")
    assert not windows.is_wsl(tmp_path / "version")


# --- together ---------------------------------------------------------------------------------------------


class Machine:
    """What the sources tell, and how often each was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: dict[str, Any] = {"sessions": (), "rested": None, "full": None, "game": False}
        self.told |= {"battery": None, "slurm": None, "typed": None}
        self.asked: list[str] = []
        monkeypatch.setattr(windows, "is_wsl", lambda: False)
        monkeypatch.setattr(presence, "sessions", self.source("sessions"))
        monkeypatch.setattr(presence, "typed_at", self.source("typed"))
        for module, name, key in (
            (desktop, "rested", "rested"),
            (desktop, "full_screen", "full"),
            (desktop, "playing", "game"),
            (workload, "on_battery", "battery"),
            (workload, "slurm_works", "slurm"),
        ):
            monkeypatch.setattr(module, name, self.source(key))

    def source(self, key: str) -> Callable[..., Any]:
        def ask(*_: object) -> Any:
            self.asked.append(key)
            if isinstance(self.told[key], Exception):
                raise self.told[key]
            return self.told[key]

        return ask


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def a_presence(clock: Clock, **rules: Any) -> Presence:
    return Presence(OwnerRules(**rules), now=clock, clock=clock)


def test_nobody_logged_in_is_nobody_there(machine: Machine) -> None:
    assert a_presence(Clock(), idle=600).look().idle == float("inf")
    assert machine.asked.count("sessions") == 1


def test_the_least_idle_of_all_counts(machine: Machine) -> None:
    machine.told["sessions"] = parsed(RECORDED)
    assert a_presence(Clock(), idle=600).look().idle == 10
    machine.told["rested"] = 3.0  # X knows better than the desktop's hint
    assert a_presence(Clock(), idle=600).look().idle == 3


def test_without_logind_terminals_count_and_without_them_it_cannot_tell(machine: Machine) -> None:
    machine.told |= {"sessions": None, "typed": 42.0}
    assert a_presence(Clock(), idle=600).look().idle == 42
    machine.told["typed"] = None
    assert a_presence(Clock(), idle=600).look().idle is None


def test_what_the_rules_do_not_ask_for_is_not_looked_at(machine: Machine) -> None:
    found = a_presence(Clock(), full_screen=False, battery=True, slurm=False).look()
    assert machine.asked == []
    assert found == presence.Signals()


def test_each_signal_has_its_pace_however_often_one_looks(machine: Machine) -> None:
    clock = Clock()
    watch = a_presence(clock)
    for _ in range(12):
        watch.look()
        clock.advance(1)
    assert machine.asked.count("battery") == 3


def test_a_dear_signal_is_asked_more_rarely(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    spent = iter(range(10**6))
    monkeypatch.setattr(presence, "_spent", lambda: next(spent) * 0.01)  # 10 ms each
    clock = Clock()
    watch = a_presence(clock)
    for _ in range(60):
        watch.look()
        clock.advance(1)
    assert machine.asked.count("battery") == 3  # every 20 s: 0.05 % of a processor


def test_a_signal_that_fails_is_kept_for_a_while_and_then_cannot_tell(machine: Machine) -> None:
    clock = Clock()
    machine.told["battery"] = True
    watch = a_presence(clock)
    assert watch.look().on_battery is True
    machine.told["battery"] = RuntimeError("no /sys")
    clock.advance(30)
    assert watch.look().on_battery is True
    clock.advance(61)
    assert watch.look().on_battery is None


def test_after_a_calm_while_a_claim_looks_for_itself(machine: Machine) -> None:
    clock = Clock()
    watch = a_presence(clock)
    watch.look(calm=True)
    machine.told["battery"] = True
    clock.advance(20)
    assert watch.look(calm=True).on_battery is None
    assert watch.latest(30, calm=True).on_battery is None
    assert watch.latest(10).on_battery is True
