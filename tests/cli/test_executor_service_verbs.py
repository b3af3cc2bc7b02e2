"""`pushtrain executor service`, with stand-ins for systemd's programs, which write down how they were called.

systemd itself runs no tests: it must be process 1. What it makes of the unit is tried in test_unit.py.
"""

import functools
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pushtrain.cli import service
from pushtrain.cli.app import run
from pushtrain.plumbing.machine.systemd import Manager

STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >> {log}
case "$*" in
  {fails}) echo "Failed to {fails}: no such thing." >&2; exit 1 ;;
  *enable-linger*) mkdir -p {root}/var/lib/systemd/linger && touch {root}/var/lib/systemd/linger/$(id -un) ;;
  *show\\ --property=LoadState*) cat {root}/shown ;;
esac
"""


SHOWN = """\
ActiveState=active
SubState=running
UnitFileState=enabled
MainPID=42
NRestarts=2
Result=exit-code
ActiveEnterTimestamp=Sun 2026-11-22 10:00:00 UTC
"""


class Machine:
    """A machine's files below a folder, and what was asked of its systemd."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.log = root / "log"
        self.config = root / "config"
        self.programs = root / "bin"
        self.programs.mkdir()
        self.stand_in()
        patch.setenv("PATH", f"{self.programs}:{os.environ['PATH']}")
        patch.setenv("XDG_CONFIG_HOME", str(self.config))
        patch.setenv("PUSHTRAIN_STATE", str(root / "state"))
        patch.setattr(service, "Manager", functools.partial(Manager, root=root))
        (root / "run/systemd/system").mkdir(parents=True)
        (root / "shown").write_text(SHOWN)

    def note(self, line: str) -> None:
        with self.log.open("a") as log:
            log.write(f"{line}\n")

    def stand_in(self, *, fails: str = "nothing", programs: tuple[str, ...] = ()) -> None:
        for name in programs or ("systemctl", "loginctl", "useradd"):
            path = self.programs / name
            path.write_text(STAND_IN.format(log=self.log, root=self.root, fails=fails))
            path.chmod(0o755)

    @property
    def asked(self) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if "show" not in line]

    @property
    def unit(self) -> Path:
        return self.config / "systemd/user/pushtrain-executor.service"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def call(*words: str) -> int:
    return run(("executor", "service", *words))


def test_a_users_service_is_written_enabled_started_and_lasts(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("install", "--", "--repo", "https://github.com/octo/hello", "--slots", "2") == 0
    assert machine.asked == [
        "systemctl --user daemon-reload",
        "systemctl --user enable pushtrain-executor.service",
        "systemctl --user restart pushtrain-executor.service",
        "loginctl enable-linger",
    ]
    text = machine.unit.read_text()
    state = machine.root / "state"
    assert f"executor --state {state} --repo https://github.com/octo/hello --slots 2\n" in text
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert "journalctl --user --unit pushtrain-executor.service" in capsys.readouterr().out


def test_the_file_for_tokens_is_private_and_never_overwritten(machine: Machine) -> None:
    assert call("install") == 0
    tokens = machine.config / "pushtrain/pushtrain-executor.env"
    assert stat.S_IMODE(tokens.stat().st_mode) == 0o600
    assert all(line.startswith("#") for line in tokens.read_text().splitlines())
    tokens.write_text("PUSHTRAIN_HOST_TOKEN=secret\n")
    assert call("install") == 0
    assert tokens.read_text() == "PUSHTRAIN_HOST_TOKEN=secret\n"
    assert f"EnvironmentFile=-{tokens}" in machine.unit.read_text()


def test_a_dry_run_prints_the_unit_and_changes_nothing(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("install", "--dry-run", "--up") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"# {machine.unit}\n")
    assert f"pushtrain up --state {machine.root / 'state'}\n" in out
    assert call("install", "--dry-run", "--system", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert "User=pushtrain\n" in printed["text"]
    assert "--state /var/lib/pushtrain\n" in printed["text"]
    assert (machine.unit.exists(), machine.asked, (machine.root / "state").exists()) == (False, [], False)


def test_without_linger_it_says_that_it_will_end_at_logout(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    (machine.programs / "loginctl").write_text("#!/bin/sh\nexit 1\n")
    assert call("install") == 14
    assert "sudo loginctl enable-linger" in capsys.readouterr().err


def test_no_start_only_prepares(machine: Machine) -> None:
    assert call("install", "--no-start") == 0
    assert not [line for line in machine.asked if "restart" in line]


def test_a_second_service_has_a_name_of_its_own(machine: Machine) -> None:
    assert call("install", "--name", "lab", "--state", str(machine.root / "other")) == 0
    assert (machine.unit.parent / "lab.service").exists()
    assert (machine.config / "pushtrain/lab.env").exists()
    assert call("install", "--name", "../lab") == 2


def test_words_that_do_not_belong_are_refused(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("install", "--sytem") == 2
    assert call("install", "--", "--state", "/elsewhere") == 2
    assert "before `--`" in capsys.readouterr().err
    assert machine.asked == []


def test_where_there_is_no_systemd_a_ready_line_is_given(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    (machine.root / "run/systemd/system").rmdir()
    assert call("install", "--", "--name", "100% mine") == 5
    said = capsys.readouterr().err
    state = machine.root / "state"
    assert f"executor --state {state} --name '100\\% mine' >>{state}/executor.log 2>&1" in said
    assert "@reboot" in said
    assert "nohup" in said
    assert not machine.unit.exists()


def test_what_systemd_refuses_is_told_in_its_own_words(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.stand_in(fails="*restart*")
    assert call("install") == 15
    assert "`systemctl restart pushtrain-executor.service` failed" in capsys.readouterr().err


def test_a_manager_that_cannot_be_reached_says_how_to_log_in(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.stand_in(fails="*Version*")
    assert call("install") == 15
    assert "machinectl shell" in capsys.readouterr().err
    assert not machine.unit.exists()


def test_status_shows_state_and_where_the_log_is(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("status") == 5
    assert not machine.unit.exists()
    assert call("install") == 0
    capsys.readouterr()
    assert call("status") == 0
    out = capsys.readouterr().out
    assert "active (running) since Sun 2026-11-22 10:00:00 UTC" in out
    assert "2, last result exit-code" in out
    assert "journalctl --user --unit pushtrain-executor.service" in out
    assert "goes on" in out
    assert call("status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["MainPID"] == "42"


def test_uninstall_stops_and_removes_the_unit_and_keeps_the_rest(machine: Machine) -> None:
    assert call("uninstall") == 5
    assert call("install") == 0
    assert call("uninstall") == 0
    assert machine.asked[-2:] == [
        "systemctl --user disable --now pushtrain-executor.service",
        "systemctl --user daemon-reload",
    ]
    assert not machine.unit.exists()
    assert (machine.root / "state").exists()
    assert (machine.config / "pushtrain/pushtrain-executor.env").exists()


# --- the machine's service ---------------------------------------------------------------------------------


@pytest.fixture
def as_root(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Call a verb as root would, on a pushtrain that is installed for everybody; nothing changes hands."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", lambda *told: machine.note(f"chown {told}"))
    for name in ("executable", "prefix", "base_prefix"):
        monkeypatch.setattr(sys, name, f"/opt/pushtrain/bin/{name}")
    return call


def test_the_machines_service_gets_an_account_and_a_folder_of_its_own(
    machine: Machine, as_root: Callable[..., int]
) -> None:
    state = machine.root / "lib"
    # `nobody` is there on every machine, so that no account is made.
    assert as_root("install", "--system", "--account", "nobody", "--state", str(state)) == 0
    unit = machine.root / "etc/systemd/system/pushtrain-executor.service"
    assert "User=nobody\n" in unit.read_text()
    assert stat.S_IMODE((machine.root / "etc/pushtrain/pushtrain-executor.env").stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert machine.asked[0].startswith(f"chown (PosixPath('{state}')")
    assert machine.asked[1:] == [
        "systemctl daemon-reload",
        "systemctl enable pushtrain-executor.service",
        "systemctl restart pushtrain-executor.service",
    ]


def test_an_account_is_made_where_there_is_none(
    machine: Machine, as_root: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    machine.stand_in(fails="*nosuchuser*", programs=("useradd",))
    assert (
        as_root("install", "--system", "--account", "nosuchuser", "--state", str(machine.root / "lib")) == 15
    )
    assert "nosuchuser could not be made" in capsys.readouterr().err
    (made,) = machine.asked
    assert made.startswith("useradd --system --user-group --no-create-home --home-dir=")
    assert made.endswith("--shell=/usr/sbin/nologin -- nosuchuser")


def test_root_is_no_account_for_jobs(machine: Machine, as_root: Callable[..., int]) -> None:
    assert as_root("install", "--system", "--account", "root", "--state", str(machine.root / "lib")) == 4
    assert machine.asked == []


def test_a_pushtrain_in_a_home_is_no_good_for_an_account_without_homes(
    machine: Machine,
    as_root: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "prefix", "/home/ada/.local/share/uv/tools/pushtrain")
    assert as_root("install", "--system") == 3
    assert "UV_TOOL_DIR=/opt/pushtrain" in capsys.readouterr().err
    assert machine.asked == []


def test_only_root_installs_the_machines_service(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert call("install", "--system") == 4
    assert "sudo" in capsys.readouterr().err
    assert machine.asked == []
