"""systemd as far as one service needs it: is it there, is the unit on, will it last.

Two managers: the machine's, and the user's own. The user's lives only while its user is logged in, unless
"lingering" is enabled. Programs are called by their names, so an error of theirs is shown as it is.
"""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pushtrain.core.errors import Forbidden, NotFound, ServiceError, StorageError
from pushtrain.plumbing.disk import files

UNIT: Final = "pushtrain-executor"
"""What a unit is called unless its owner says otherwise."""

_PATIENCE: Final = 100
_SHOWN: Final = (
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "MainPID",
    "NRestarts",
    "Result",
    "ActiveEnterTimestamp",
    "FragmentPath",
)


@dataclass(frozen=True, slots=True)
class Manager:
    """One of systemd's managers.

    Args:
        system: The machine's; else the user's own.
        root: Where the machine's files begin; another one for tests.
    """

    system: bool
    root: Path = Path("/")

    @property
    def user(self) -> str:
        """Who we are."""
        return pwd.getpwuid(os.getuid()).pw_name

    @property
    def units(self) -> Path:
        """Where units are put."""
        return self.root / "etc/systemd/system" if self.system else _config() / "systemd/user"

    @property
    def settings(self) -> Path:
        """Where the files with tokens are put."""
        return self.root / "etc/pushtrain" if self.system else _config() / "pushtrain"

    @property
    def running(self) -> bool:
        """Whether systemd runs this machine."""
        return (self.root / "run/systemd/system").is_dir()

    def check(self) -> None:
        """Raise NotFound where systemd does not run the machine, Forbidden where it will not listen to us."""
        if not self.running:
            raise NotFound("systemd does not run this machine.")
        if self.system and os.geteuid():
            raise Forbidden("A service of the machine is installed by root.", mend="Put `sudo` before it.")
        done = self._run("systemctl", "show", "--property=Version")
        if done.returncode:
            raise ServiceError(
                f"The systemd of user {self.user} does not answer: {_said(done)}.",
                mend=f"Log in as {self.user} itself (ssh, or `machinectl shell {self.user}@`): after `su` or "
                "`sudo` it cannot be reached.",
            )

    def call(self, *words: str) -> None:
        """`systemctl WORDS` with this manager.

        Raises:
            ServiceError: It failed; the message holds what it said.
        """
        done = self._run("systemctl", *words)
        if done.returncode:
            raise ServiceError(
                f"`systemctl {' '.join(words)}` failed: {_said(done)}.",
                mend=f"See `{self.journal(words[-1])}`.",
            )

    def show(self, unit: str) -> dict[str, str]:
        """What systemd knows of a unit: its properties by name."""
        done = self._run("systemctl", "show", f"--property={','.join(_SHOWN)}", "--", unit)
        return dict(line.partition("=")[::2] for line in done.stdout.splitlines() if "=" in line)

    def journal(self, unit: str) -> str:
        """The command that shows a unit's log."""
        return f"journalctl {'' if self.system else '--user '}--unit {unit} --lines 50"

    @property
    def lingers(self) -> bool:
        """Whether the user's manager goes on after a logout; the machine's always does."""
        return self.system or (self.root / "var/lib/systemd/linger" / self.user).exists()

    def linger(self) -> bool:
        """Have the user's manager go on after a logout; whether it does now."""
        if not self.lingers:
            self._run("loginctl", "enable-linger")
        return self.lingers

    def write(self, path: Path, content: str, *, mode: int) -> None:
        """Put a file in its place, whole or not at all.

        Raises:
            StorageError: It could not be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.replace(path, content.encode(), mode=mode)
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {error.strerror}.") from error

    def add_account(self, name: str, home: Path) -> None:
        """Make an account of its own for the service, and its folder, where there is none.

        Raises:
            ServiceError: It could not be made.
        """
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            done = self._run(
                "useradd",
                "--system",
                "--user-group",
                "--no-create-home",
                f"--home-dir={home}",
                "--shell=/usr/sbin/nologin",
                "--",
                name,
            )
            if done.returncode:
                raise ServiceError(f"The account {name} could not be made: {_said(done)}.") from None
            found = pwd.getpwnam(name)
        if found.pw_uid == 0:
            raise Forbidden(f"{name} is root; jobs must not be.", mend="Choose another `--account`.")
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chown(home, found.pw_uid, found.pw_gid)
        except OSError as error:
            raise StorageError(f"{home} cannot be made: {error.strerror}.") from error

    def _run(self, program: str, *words: str) -> "subprocess.CompletedProcess[str]":
        mine = ("--user",) if program == "systemctl" and not self.system else ()
        argv = (program, *mine, *words)
        try:
            return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_PATIENCE)
        except (OSError, subprocess.TimeoutExpired) as error:
            return subprocess.CompletedProcess(argv, 127, "", f"{program}: {error}")


def _config() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def _said(done: "subprocess.CompletedProcess[str]") -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1].rstrip(".") if lines else f"exit status {done.returncode}"
