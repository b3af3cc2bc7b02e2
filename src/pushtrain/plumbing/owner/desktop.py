"""What a desktop tells: how long it was not touched, whether a window fills its screen, whether a game is on.

X11 is asked with `xprintidle` or `xssstate` and with `xprop`, where they are installed; GameMode on the
user's own message bus, without starting it. A service of the machine finds the display of whoever is logged
in by the environment of their programs, which only it and they may read. Wayland tells nobody whether a
window fills the screen: there only its idle hint and GameMode count.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pushtrain.plumbing.owner.sessions import Session
from pushtrain.plumbing.programs.asking import answer, said

_WINDOW: Final = re.compile(r"_NET_ACTIVE_WINDOW.*# (0x[0-9a-f]+)")
_FULL: Final = "_NET_WM_STATE_FULLSCREEN"
_GAMEMODE: Final = "com.feralinteractive.GameMode"
_UNREACHED: Final = ("Failed to connect", "Failed to set")


@dataclass(frozen=True, slots=True)
class Screen:
    """How one X display is reached."""

    display: str
    authority: str = ""

    @property
    def variables(self) -> Mapping[str, str]:
        """For programs that ask it."""
        named = {"XAUTHORITY": self.authority} if self.authority else {}
        return {"DISPLAY": self.display, **named}


class Screens:
    """The X displays of this machine, each looked for once."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        self._known: dict[str, Screen | None] = {}

    def of(self, sessions: Sequence[Session]) -> tuple[Screen, ...]:
        """Those of our own environment and of people's sessions."""
        found = {}
        if own := self._environ.get("DISPLAY"):
            found[own] = Screen(own, self._environ.get("XAUTHORITY", ""))
        for session in sessions:
            if session.graphical:
                if session.id not in self._known:
                    self._known[session.id] = _look_for(session)
                if (screen := self._known[session.id]) is not None:
                    found.setdefault(screen.display, screen)
        return tuple(found.values())


def _look_for(session: Session) -> Screen | None:
    """The display of somebody's desktop, in the environment of one of their programs."""
    try:
        entries = [entry for entry in os.scandir("/proc") if entry.name.isdigit()]
    except OSError:
        return None
    for entry in entries:
        try:
            if entry.stat().st_uid != session.uid:
                continue
            text = Path(entry.path, "environ").read_bytes().decode("utf-8", "replace")
        except OSError:
            continue
        told = dict(one.partition("=")[::2] for one in text.split("\0"))
        if told.get("DISPLAY") and session.display in {"", told["DISPLAY"]}:
            return Screen(told["DISPLAY"], told.get("XAUTHORITY", ""))
    return None


def rested(screens: Sequence[Screen]) -> float | None:
    """Seconds since a key or the mouse was touched at any of these; None: no program here tells."""
    found = []
    for screen in screens:
        for argv in (("xprintidle",), ("xssstate", "-i")):
            text = said(*argv, env=screen.variables)
            if text is not None and text.strip().isdigit():
                found.append(int(text) / 1000)
                break
    return min(found, default=None)


def full_screen(screens: Sequence[Screen]) -> bool | None:
    """Whether the window in front fills one of these; None: nobody tells."""
    told = None
    for screen in screens:
        text = said("xprop", "-root", "-notype", "_NET_ACTIVE_WINDOW", env=screen.variables)
        if text is None:
            continue
        told = told or False
        window = _WINDOW.search(text)
        if window is None or int(window[1], 16) == 0:
            continue
        state = said("xprop", "-id", window[1], "-notype", "_NET_WM_STATE", env=screen.variables)
        if state is not None and _FULL in state:
            return True
    return told


def playing(sessions: Sequence[Session], runtime: Path = Path("/run/user")) -> bool | None:
    """Whether GameMode is on for anybody; None: it is installed and does not tell.

    Args:
        sessions: Who is logged in.
        runtime: Where users' message buses are.
    """
    if shutil.which("gamemoded") is None:
        return False
    told: bool | None = False
    for uid in {session.uid for session in sessions}:
        bus = runtime / str(uid) / "bus"
        if not bus.exists():
            continue
        words = ("--auto-start=no", "--json=short", "get-property")
        place = (_GAMEMODE, f"/{_GAMEMODE.replace('.', '/')}", _GAMEMODE, "ClientCount")
        found = answer("busctl", f"--address=unix:path={bus}", *words, *place)
        if found is None or found[2].startswith(_UNREACHED):
            told = None
            continue
        code, text, _ = found  # an error otherwise: the service is not running, so nobody plays
        if code == 0 and _count(text) > 0:
            return True
    return told


def _count(text: str) -> int:
    try:
        return int(json.loads(text)["data"])
    except (ValueError, KeyError, TypeError):
        return 0
