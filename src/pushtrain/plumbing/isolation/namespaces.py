"""Why this machine does not let us make namespaces, and the one command that mends it."""

import os
import shutil
from pathlib import Path
from typing import Final

_PROFILE: Final = (
    r"printf 'abi <abi/4.0>,\ninclude <tunables/global>\n"
    r"profile bwrap {} flags=(unconfined) {{\n  userns,\n}}\n' | "
    "sudo tee /etc/apparmor.d/bwrap >/dev/null && sudo apparmor_parser -r /etc/apparmor.d/bwrap"
)
_OTHERS: Final = "/etc/apparmor.d/bwrap-userns-restrict"
"""Ubuntu's own profile of that name, from 25.04 on: it lets bubblewrap make a sandbox, and takes from what
runs inside all power over namespaces. An uplink's keeper runs inside, and needs it."""

_LASTING: Final = "`echo {} | sudo tee /etc/sysctl.d/90-userns.conf && sudo sysctl --system`"
_SWITCHES: Final = (
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "AppArmor keeps unprivileged programs from making user namespaces (as on Ubuntu 24.04)",
        "",  # `profile`
    ),
    (
        "kernel/unprivileged_userns_clone",
        "0",
        "the kernel lets only root make user namespaces",
        _LASTING.format("kernel.unprivileged_userns_clone=1"),
    ),
    (
        "user/max_user_namespaces",
        "0",
        "this machine allows no user namespaces",
        _LASTING.format("user.max_user_namespaces=15000"),
    ),
)
_CONTAINERS: Final = ("/.dockerenv", "/run/.containerenv")


def profile(root: Path = Path("/")) -> str:
    """The command that lets bubblewrap, and nothing else, make user namespaces where AppArmor is against it.

    What bubblewrap starts keeps the profile, so sandboxes and uplinks are mended by the one command.
    """
    program = os.path.realpath(shutil.which("bwrap") or "/usr/bin/bwrap")
    made = _PROFILE.format(program)
    if not (root / _OTHERS.removeprefix("/")).exists():
        return made
    return f"sudo ln -sf {_OTHERS} /etc/apparmor.d/disable/ && {made}"


def explain(complaint: str, *, root: Path = Path("/")) -> tuple[str, str]:
    """Why a sandbox could not be entered, and the mend.

    Args:
        complaint: What was said when it failed.
        root: Where `/proc` is, for tests.
    """
    for name, value, why, mend in _SWITCHES:
        if _read(root / "proc/sys" / name) == value:
            return why, mend or f"`{profile(root)}`"
    last = (complaint.strip().splitlines() or ["it did not say why"])[-1]
    why = f"nothing can be started in it: {last}"
    if any((root / name.removeprefix("/")).exists() for name in _CONTAINERS):
        options = "--security-opt seccomp=unconfined --security-opt apparmor=unconfined"
        return why, f"This is a container: start it with `{options} --security-opt systempaths=unconfined`."
    return why, ""


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
