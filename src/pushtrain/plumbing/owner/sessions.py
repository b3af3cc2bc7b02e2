"""Who sits at this machine, as logind knows it, and since when nobody has touched a key.

logind is asked by its own program, and only while somebody is logged in. It knows of a terminal when it was
last typed at, and of a desktop what that says of itself: idle since, or in use. Where there is no logind,
terminals are looked at directly.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pushtrain.plumbing.programs.asking import said

_SESSIONS: Final = Path("/run/systemd/sessions")
_SHOWN: Final = ("Id", "User", "Class", "Type", "State", "Display", "TTY", "IdleHint", "IdleSinceHint")
_GRAPHICAL: Final = frozenset({"x11", "wayland", "mir"})


@dataclass(frozen=True, slots=True)
class Session:
    """One login of a person."""

    id: str
    uid: int
    kind: str
    """`x11`, `wayland`, `tty`, `web`, `unspecified`."""
    display: str = ""
    """The X display, where it has one and tells."""
    idle: bool = False
    """Whether it says that nobody is there."""
    since: float = 0
    """Seconds since the epoch: when that changed; of a terminal, when it was last typed at. 0: not told."""

    @property
    def graphical(self) -> bool:
        """Whether it is a desktop."""
        return self.kind in _GRAPHICAL

    def untouched(self, now: float) -> float:
        """Seconds since the last key or mouse movement, as far as it tells; rather too few than too many."""
        if self.since and (self.idle or not self.graphical):
            return max(0.0, now - self.since)
        return 0.0


def sessions(folder: Path = _SESSIONS) -> tuple[Session, ...] | None:
    """The people who are logged in; None where there is no logind, or it does not answer.

    Args:
        folder: Where logind keeps a file for each session; the names in it are all that is read there.
    """
    try:
        names = [name for name in os.listdir(folder) if not name.endswith(".ref")]  # noqa: PTH208  names alone
    except OSError:
        return None
    if not names:
        return ()
    properties = (word for name in _SHOWN for word in ("-p", name))
    text = said("loginctl", "--no-pager", "show-session", *properties, *names)
    return None if text is None else parsed(text)


def parsed(text: str) -> tuple[Session, ...]:
    """The people's sessions in what `loginctl show-session` printed: blocks of `Name=value`."""
    found = []
    for block in text.split("\n\n"):
        told = dict(line.partition("=")[::2] for line in block.splitlines() if "=" in line)
        if not told.get("Class", "").startswith("user") or told.get("State") == "closing":
            continue  # a greeter, a service's or cron's session, one that is at its end
        uid, since = told.get("User", ""), told.get("IdleSinceHint", "")
        found.append(
            Session(
                id=told.get("Id", ""),
                uid=int(uid) if uid.isdigit() else -1,
                kind=told.get("Type", ""),
                display=told.get("Display", ""),
                idle=told.get("IdleHint") == "yes",
                since=int(since) / 1e6 if since.isdigit() else 0.0,
            )
        )
    return tuple(found)


def typed_at(now: float, devices: Sequence[Path] = (Path("/dev/pts"), Path("/dev"))) -> float | None:
    """Seconds since something was last typed at a terminal of this machine; None: there is none.

    A terminal's access time is that of its last input. Output does not change it.

    Args:
        now: Seconds since the epoch.
        devices: Where terminals are.
    """
    latest = None
    for folder in devices:
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue
        for entry in entries:
            name = entry.name.removeprefix("tty")
            if not name.isdigit() or (folder.name != "pts" and name == entry.name):
                continue
            try:
                at = entry.stat().st_atime
            except OSError:
                continue
            latest = at if latest is None else max(latest, at)
    return None if latest is None else max(0.0, now - latest)
