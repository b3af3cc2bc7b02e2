"""The systemd unit: systemd itself reads it and rates it; what training needs is not taken away."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.plumbing.machine.unit import Unit, absolute, below_home, quoted, text

MINE = Unit(
    (
        sys.executable,
        "-P",
        "-m",
        "pushtrain",
        "executor",
        "--state",
        "/srv/state",
        "--name",
        '100% $HOME "x"',
    ),
    Path("/srv/a state"),
    Path("/srv/conf ig/pushtrain-executor.env"),
    path="/usr/local/bin:/opt/100%/bin:/a b",
)
HOME, ROOT = Path("/home", "somebody"), Path("/root")
"""Below what systemd's `ProtectHome` hides."""
MACHINE = replace(MINE, account="daemon", path="", lent=(HOME / "my data", Path("/data"), ROOT / "x"))


def analyze(folder: Path, unit: Unit, *words: str) -> "subprocess.CompletedProcess[str]":
    file = folder / "pushtrain-executor.service"
    file.write_text(text(unit))
    return subprocess.run(
        ("systemd-analyze", *words, str(file)),
        env={**os.environ, "XDG_RUNTIME_DIR": str(folder)},  # a user's manager has one
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def lines(unit: Unit, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", text(unit), re.MULTILINE)


@pytest.mark.parametrize(
    "unit",
    [MINE, MACHINE, replace(MACHINE, lent=()), replace(MACHINE, state=Path("/home/ada/state"))],
    ids=["user", "system", "system without homes", "system with a state folder in a home"],
)
def test_systemd_has_nothing_to_say_against_it(tmp_path: Path, unit: Unit) -> None:
    manager = "--system" if unit.system else "--user"
    done = analyze(tmp_path, unit, "verify", "--man=no", manager)
    older = "Unknown key 'DelegateSubgroup'"  # before systemd 254, which goes on without it
    said = [line for line in (done.stdout + done.stderr).splitlines() if older not in line]
    assert (done.returncode, said) == (0, [])


def test_verify_would_notice_a_mistake(tmp_path: Path) -> None:
    done = analyze(tmp_path, replace(MINE, command=("/nowhere/pushtrain",)), "verify", "--man=no", "--user")
    assert "not executable" in done.stdout + done.stderr


def test_the_machines_service_is_rated_ok_by_systemd(tmp_path: Path) -> None:
    done = analyze(tmp_path, MACHINE, "security", "--offline=yes", "--no-pager")
    exposure = re.search(r"Overall exposure level for [^:]*: ([\d.]+)", done.stdout)
    assert exposure, done.stdout + done.stderr
    assert float(exposure[1]) < 4.5


@pytest.mark.parametrize("unit", [MINE, MACHINE], ids=["user", "system"])
def test_trainings_outlive_the_service(unit: Unit) -> None:
    assert lines(unit, "KillMode") == ["process"]
    assert lines(unit, "OOMPolicy") == ["continue"]
    assert lines(unit, "PrivateTmp") in ([], ["no"])
    assert lines(unit, "RemoveIPC") in ([], ["no"])
    assert lines(unit, "TasksMax") == ["infinity"]


@pytest.mark.parametrize("unit", [MINE, MACHINE], ids=["user", "system"])
@pytest.mark.parametrize(
    "name",
    [
        "DeviceAllow",
        "DevicePolicy",
        "MemoryDenyWriteExecute",
        "PrivateDevices",
        "PrivateNetwork",
        "PrivateUsers",
        "ProcSubset",
        "ProtectClock",
        "ProtectHostname",
        "ProtectKernelLogs",
        "ProtectKernelTunables",
        "RestrictNamespaces",
    ],
)
def test_what_training_or_its_sandbox_needs_is_not_taken_away(unit: Unit, name: str) -> None:
    assert lines(unit, name) == []


def test_a_users_service_asks_for_nothing_that_only_the_machines_manager_can_do() -> None:
    for name in ("User", "ProtectSystem", "ProtectHome", "ReadWritePaths", "CapabilityBoundingSet"):
        assert lines(MINE, name) == []


def test_the_machines_service_writes_only_its_state_and_tmp_and_sees_no_home() -> None:
    bare = replace(MACHINE, lent=(), state=Path("/var/lib/pushtrain"))
    assert lines(bare, "ProtectSystem") == ["strict"]
    assert lines(bare, "ReadWritePaths") == ["/var/lib/pushtrain /tmp /var/tmp"]
    assert lines(bare, "ProtectHome") == ["yes"]
    assert lines(bare, "User") == ["daemon"]


def test_a_lent_folder_in_a_home_is_shown_read_only_and_nothing_else_of_it() -> None:
    assert lines(MACHINE, "ProtectHome") == ["tmpfs"]
    assert lines(MACHINE, "BindReadOnlyPaths") == [f'"{HOME}/my data"', f"{ROOT}/x"]
    assert lines(MACHINE, "BindPaths") == []


def test_no_token_stands_in_the_unit() -> None:
    assert lines(MINE, "EnvironmentFile") == ["-/srv/conf ig/pushtrain-executor.env"]
    assert lines(MINE, "Environment") == ['"PATH=/usr/local/bin:/opt/100%%/bin:/a b"']
    assert "TOKEN" not in text(MINE)


def test_it_starts_again_after_a_failure_but_not_after_a_mistake_in_the_settings() -> None:
    assert lines(MINE, "Restart") == ["on-failure"]
    assert lines(MINE, "RestartPreventExitStatus") == ["2 3"]
    assert lines(MINE, "StartLimitIntervalSec") == ["0"]


def test_real_systemctl_enables_it_where_it_belongs(tmp_path: Path) -> None:
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    (units / "pushtrain-executor.service").write_text(text(MACHINE))
    argv = ("systemctl", f"--root={tmp_path}", "enable", "pushtrain-executor.service")
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (units / "multi-user.target.wants/pushtrain-executor.service").is_symlink()


def unquoted(line: str) -> list[str]:
    """How systemd reads words: quotes, backslashes, `%%` and `$$` (systemd.syntax, systemd.service)."""
    words, word, within, at = [], "", False, 0
    some = False
    while at < len(line):
        char = line[at]
        if char == "\\":
            at += 1
            word += {"n": "\n", "t": "\t"}.get(line[at], line[at])
        elif char == '"':
            within, some = not within, True
        elif char == " " and not within:
            words += [word] if word or some else []
            word, some = "", False
        else:
            if char in "%$":
                assert line[at + 1] == char, f"{char} counts"
                at += 1
            word += char
        at += 1
    return words + ([word] if word or some else [])


@given(
    st.lists(
        st.text(st.characters(min_codepoint=32, max_codepoint=1000) | st.sampled_from("\n\t")), max_size=4
    )
)
def test_every_word_comes_back_as_it_was(words: list[str]) -> None:
    line = " ".join(quoted(word, variables=True) for word in words)
    assert "\n" not in line
    assert unquoted(line) == words


def test_a_path_keeps_only_what_does_not_depend_on_where_one_stands() -> None:
    assert absolute("/a:bin::/b:.:/a") == "/a:/b"


def test_homes_are_known() -> None:
    assert [below_home(Path(path)) for path in ("/home/ada", "/root", "/opt/home", "/homes/x")] == [
        True,
        True,
        False,
        False,
    ]
