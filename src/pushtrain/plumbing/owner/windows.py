"""Windows around a WSL2 machine: how long it was not touched, and whether something fills its screen.

Under WSL2 the GPU driver names no processes, so this is how the owner is seen. One PowerShell of Windows' own
is started by the executor (a job cannot start any, the sandbox tries it) and says both every few seconds; it
ends when nobody reads it any more. Not yet tried on a real Windows: what it prints is what is tested.
"""

import base64
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pushtrain.plumbing.programs.process import marked_environment

EVERY: Final = 5
"""Seconds between two words of it."""
_STALE: Final = 3.0 * EVERY
_AGAIN: Final = 300.0
"""Seconds until another one is started where one has ended."""
_FULL: Final = frozenset({2, 3, 4})
"""SHQueryUserNotificationState: busy, a full-screen game, a presentation."""
_PLACES: Final = ("powershell.exe", "/mnt/c/Windows/System32/WindowsPowerShell/v1.0/powershell.exe")

SCRIPT: Final = (
    "$ErrorActionPreference = 'Stop'; "
    "Add-Type -Namespace P -Name U -MemberDefinition '"
    '[DllImport("user32.dll")] public static extern bool GetLastInputInfo(ref LII p); '
    '[DllImport("shell32.dll")] public static extern int SHQueryUserNotificationState(out int s); '
    "public struct LII { public uint cbSize; public uint dwTime; }'; "
    "while ($true) { $i = New-Object P.U+LII; $i.cbSize = 8; $s = 0; "
    "[void][P.U]::GetLastInputInfo([ref]$i); [void][P.U]::SHQueryUserNotificationState([ref]$s); "
    "$d = (([long][Environment]::TickCount) - ([long]$i.dwTime)) -band 0xFFFFFFFFL; "
    f'[Console]::Out.WriteLine("$d $s"); [Console]::Out.Flush(); Start-Sleep -Seconds {EVERY} }}'
)
"""Prints milliseconds since the last input, counted modulo 2^32, and the notification state."""


def is_wsl(version: Path = Path("/proc/version")) -> bool:
    """Whether this machine runs inside Windows."""
    try:
        return "microsoft" in version.read_text().lower()
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Word:
    """What Windows said last."""

    rested: float
    """Seconds."""
    full_screen: bool


def heard(line: str) -> Word | None:
    """What one line says; None: nothing."""
    words = line.split()
    if len(words) != 2 or not all(word.isdigit() for word in words):  # noqa: PLR2004  two numbers
        return None
    return Word(int(words[0]) / 1000, int(words[1]) in _FULL)


class Windows:
    """The one PowerShell; belongs to one thread.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._child: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._word: Word | None = None
        self._heard_at = 0.0
        self._started_at = float("-inf")

    def look(self) -> Word | None:
        """What it said last, no older than a few words; None: it does not tell."""
        self._start()
        self._listen()
        return self._word if self._clock() - self._heard_at <= _STALE else None

    def close(self) -> None:
        """End it."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            if self._child.stdout is not None:
                self._child.stdout.close()
            self._child = None

    def _start(self) -> None:
        if self._child is not None and self._child.poll() is not None:
            self.close()
        if self._child is not None or self._clock() - self._started_at < _AGAIN:
            return
        self._started_at = self._clock()
        program = next(filter(None, map(shutil.which, _PLACES)), None)
        if program is None:
            return
        script = base64.b64encode(SCRIPT.encode("utf-16-le")).decode()  # nothing that quoting could spoil
        argv = (program, "-NoProfile", "-NonInteractive", "-EncodedCommand", script)
        with contextlib.suppress(OSError):
            self._child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=marked_environment(),
                start_new_session=True,
            )
            if self._child.stdout is not None:
                os.set_blocking(self._child.stdout.fileno(), False)

    def _listen(self) -> None:
        if self._child is None or self._child.stdout is None:
            return
        text = self._rest + (self._child.stdout.read() or b"")
        *lines, self._rest = text.split(b"\n")
        for line in lines:
            if (word := heard(line.decode("ascii", "replace"))) is not None:
                self._word, self._heard_at = word, self._clock()
