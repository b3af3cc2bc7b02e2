"""Why this machine does not let us make namespaces, and the one command that mends it."""

from pathlib import Path
from typing import Final

PROFILE: Final = (
    r"printf 'abi <abi/4.0>,\ninclude <tunables/global>\n"
    r"profile bwrap /usr/bin/bwrap flags=(unconfined) {\n  userns,\n}\n' | "
    "sudo tee /etc/apparmor.d/bwrap >/dev/null && sudo apparmor_parser -r /etc/apparmor.d/bwrap"
)
"""Lets bubblewrap, and nothing else, make user namespaces where AppArmor keeps everybody from it."""

_LASTING: Final = "`echo {} | sudo tee /etc/sysctl.d/90-userns.conf && sudo sysctl --system`"
_SWITCHES: Final = (
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "AppArmor keeps unprivileged programs from making user namespaces (as on Ubuntu 24.04)",
        f"`{PROFILE}`",
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


def explain(complaint: str, *, root: Path = Path("/")) -> tuple[str, str]:
    """Why a sandbox could not be entered, and the mend.

    Args:
        complaint: What was said when it failed.
        root: Where `/proc` is, for tests.
    """
    for name, value, why, mend in _SWITCHES:
        if _read(root / "proc/sys" / name) == value:
            return why, mend
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
