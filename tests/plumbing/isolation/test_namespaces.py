"""A machine that lets nobody make namespaces says the one command that mends it, sandboxes and uplinks alike.

AppArmor itself cannot be tried here: its switch and its profiles are laid out as Ubuntu documents them.
"""

import errno
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from pushtrain.plumbing.isolation import namespaces, uplink

SWITCH = "proc/sys/kernel/apparmor_restrict_unprivileged_userns"


@pytest.fixture
def ubuntu(tmp_path: Path) -> Path:
    """Where the switch of Ubuntu 24.04 is on."""
    (tmp_path / SWITCH).parent.mkdir(parents=True)
    (tmp_path / SWITCH).write_text("1\n")
    return tmp_path


def test_where_apparmor_is_against_it_the_mend_is_one_command_that_writes_a_profile(ubuntu: Path) -> None:
    why, mend = namespaces.explain("bwrap: setting up uid map: Permission denied", root=ubuntu)
    assert "AppArmor keeps unprivileged programs" in why
    command = mend.strip("`")
    written = subprocess.run(
        ("sh", "-c", command.partition(" | ")[0]), capture_output=True, text=True, check=True
    ).stdout
    assert re.search(
        r"^profile bwrap /\S+/bwrap flags=\(unconfined\) \{\n  userns,\n\}$", written, re.MULTILINE
    )
    assert "apparmor_parser -r /etc/apparmor.d/bwrap" in command
    assert shlex.split(command), "a shell understands it"


def test_ubuntus_own_profile_of_that_name_is_disabled_for_good(ubuntu: Path) -> None:
    """It lets sandboxes be made and no uplinks; loaded later, as at each boot, it would win."""
    own = ubuntu / "etc/apparmor.d/bwrap-userns-restrict"
    own.parent.mkdir(parents=True)
    own.touch()
    _, mend = namespaces.explain("a network namespace: Operation not permitted", root=ubuntu)
    disabled, _, rest = mend.strip("`").partition(" && ")
    assert disabled == "sudo ln -sf /etc/apparmor.d/bwrap-userns-restrict /etc/apparmor.d/disable/"
    assert rest == namespaces.profile()


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES])
def test_an_uplink_that_is_refused_says_the_same_as_a_sandbox(
    number: int, ubuntu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = namespaces.explain
    monkeypatch.setattr(namespaces, "explain", lambda said: whole(said, root=ubuntu))
    refused = uplink._refused(number, "a network namespace: Operation not permitted")
    assert refused.mend == whole("", root=ubuntu)[1]
    assert "AppArmor" in refused.message


def test_a_kernel_that_allows_no_namespaces_is_told_its_own_switch(tmp_path: Path) -> None:
    (tmp_path / "proc/sys/user").mkdir(parents=True)
    (tmp_path / "proc/sys/user/max_user_namespaces").write_text("0\n")
    why, mend = namespaces.explain("", root=tmp_path)
    assert why == "this machine allows no user namespaces"
    assert "user.max_user_namespaces=15000" in mend
