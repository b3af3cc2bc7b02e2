"""Reverse forwarding by the system's OpenSSH client, through one's own server or a service that prints a URL.

With `public_url` the server is one's own: `ssh -N -R` asks it to listen, and its yes or no is read from the
client's verbose output (`-f` would tell it too, but leaves a daemon behind). Without `public_url` the server
is a service such as localhost.run or serveo, which prints the URL it gave. Keys, host keys, agents and jumps
are those of the user's own configuration; nothing is ever asked, so what needs a question fails with its
mend.
"""

import asyncio
import contextlib
import os
import re
import signal
from collections import deque
from collections.abc import Callable
from typing import Final

from pushtrain.adapters.tunnels import checked
from pushtrain.core.errors import ConfigError, PushtrainError, Unreachable
from pushtrain.core.settings import ExecutorSettings
from pushtrain.plumbing.programs.process import marked_environment

_TIMEOUT: Final = 30.0
"""Seconds until the server must have said yes, or printed a URL."""
_ALIVE: Final = 15
"""Seconds between two signs of life over an idle connection; they are no requests."""
_MISSED: Final = 3
"""Unanswered signs of life after which the connection counts as dead."""
_PATIENCE: Final = 2.0
"""Seconds between terminate and kill."""
_LONGEST_LINE: Final = 8192

_LISTENS: Final = re.compile(r"remote forward success for: listen .*?\b([1-9]\d*), connect")
_ALLOCATED: Final = re.compile(r"Allocated port (\d+) for remote forward")
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_CHATTER: Final = re.compile(r"debug\d: |OpenSSH_|Authenticated to |Transferred: |Bytes per second: |Pseudo-")


class Ssh:
    """One `ssh` process that forwards; fits `ports.Tunnel`.

    Args:
        settings: `ssh_target`, `ssh_remote`, `ssh_pattern`, `ssh_config` and `public_url` are used.
        alive: Seconds between signs of life.
        timeout: Seconds for coming up.

    Raises:
        ConfigError: A setting is missing or no use.
    """

    def __init__(self, settings: ExecutorSettings, *, alive: int = _ALIVE, timeout: float = _TIMEOUT) -> None:
        if not settings.ssh_target:
            raise ConfigError(
                "The ssh tunnel needs a server to go through.",
                mend="Give it with `--ssh-target user@host` or as `ssh_target` in settings.toml.",
            )
        if settings.public_url:
            checked(settings.public_url.replace("{port}", "1"), "`public_url`")
        try:
            self._pattern = re.compile(settings.ssh_pattern)
        except re.error as error:
            raise ConfigError(
                f"`ssh_pattern` is no regular expression: {error}.", mend="Mend it in settings.toml."
            ) from error
        self._settings = settings
        self._remote = settings.ssh_remote or ("0" if settings.public_url else "80")
        self._alive = alive
        self._timeout = timeout
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._said: deque[str] = deque(maxlen=20)

    async def open(self, host: str, port: int) -> str:
        """Start `ssh`, and give the URL once the server listens.

        Raises:
            ConfigError, Unreachable: As the port says.
        """
        url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        own = bool(self._settings.public_url)
        self._said.clear()
        try:
            process = await asyncio.create_subprocess_exec(
                *self.argv(host, port),
                stdin=asyncio.subprocess.PIPE,  # stays open: some services end with their input
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=marked_environment(),
                start_new_session=True,
            )
        except OSError as error:
            raise ConfigError(
                f"The program `ssh` cannot be started: {error.strerror}.",
                mend="Install OpenSSH's client (`apt install openssh-client`).",
            ) from error
        self._process = process
        self._reader = asyncio.create_task(self._read(process, url, own=own))
        await asyncio.wait((url, self._reader), timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED)
        if url.done():
            return checked(url.result(), "What the ssh server calls its URL")
        raise await self._failed(process, ended=self._reader.done())

    async def lost(self) -> str:
        """Wait until `ssh` has ended; its last words."""
        process, reader = self._process, self._reader
        if process is None or reader is None:
            return "it was never open"
        await asyncio.shield(reader)
        code = await process.wait()
        return next(reversed(self._said), f"ssh ended with {code}").rstrip(".")

    async def close(self) -> None:
        """End `ssh` and what it started (a jump, a proxy)."""
        process, self._process = self._process, None
        reader, self._reader = self._reader, None
        if process is None:
            return
        for step in (signal.SIGTERM, signal.SIGKILL):
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, step)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    await process.wait()
                break
        if reader is not None:
            reader.cancel()
            await asyncio.wait((reader,))

    def argv(self, host: str, port: int) -> tuple[str, ...]:
        """The command line; it holds no secret."""
        settings = self._settings
        options = {
            "BatchMode": "yes",
            "ExitOnForwardFailure": "yes",
            "ServerAliveInterval": str(self._alive),
            "ServerAliveCountMax": str(_MISSED),
            "ConnectTimeout": str(max(1, round(self._timeout / 2))),
            "ControlMaster": "no",
            "ControlPath": "none",
            "ForwardAgent": "no",
            "PermitLocalCommand": "no",
        }
        local = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return (
            "ssh",
            *(("-F", settings.ssh_config) if settings.ssh_config else ()),
            *(("-v", "-N") if settings.public_url else ("-o", "LogLevel=INFO")),
            "-T",
            *(word for name, value in options.items() for word in ("-o", f"{name}={value}")),
            "-R",
            f"{self._remote}:{local}",
            "--",
            settings.ssh_target,
        )

    async def _read(
        self, process: asyncio.subprocess.Process, url: asyncio.Future[str], *, own: bool
    ) -> None:
        """Read both streams to their ends."""
        streams = (
            (process.stdout, (lambda _: None) if own else (lambda line: self._printed(line, url))),
            (process.stderr, lambda line: self._complained(line, url if own else None)),
        )
        async with asyncio.TaskGroup() as group:
            for stream, each in streams:
                if stream is not None:
                    group.create_task(_lines(stream, each))

    def _printed(self, line: str, url: asyncio.Future[str]) -> None:
        """Look for the URL in a line of a service's output."""
        found = self._pattern.search(line)
        if found and not url.done():
            url.set_result(found[found.lastindex or 0])

    def _complained(self, line: str, url: asyncio.Future[str] | None) -> None:
        """Keep what the client complains of; notice that one's own server listens."""
        listens = _ALLOCATED.search(line) or _LISTENS.search(line)
        if listens and url is not None and not url.done():
            url.set_result(self._settings.public_url.replace("{port}", listens[1]))
        elif not _CHATTER.match(line):
            self._said.append(line)

    async def _failed(self, process: asyncio.subprocess.Process, *, ended: bool) -> PushtrainError:
        target, said = self._settings.ssh_target, "\n".join(self._said)
        for pattern, kind, text, mend in _TROUBLES:
            if re.search(pattern, said):
                words = {"target": target, "remote": self._remote}
                return kind(text.format(**words), mend=mend.format(**words))
        if ended:
            code = await process.wait()
            last = next(reversed(self._said), f"it ended with {code}").rstrip(".")
            return Unreachable(
                f"ssh opened no tunnel through {target}: {last}.", mend=f"Try `ssh {target}` by hand."
            )
        if self._settings.public_url:
            return Unreachable(
                f"The ssh server {target} did not answer within {self._timeout:g} s.",
                mend=f"Try `ssh {target}` by hand; check this machine's network.",
            )
        return Unreachable(
            f"The ssh server {target} printed no URL within {self._timeout:g} s.",
            mend="Set `public_url` for a server of your own, or `ssh_pattern` for what this service prints.",
        )


async def _lines(stream: asyncio.StreamReader, each: Callable[[str], None]) -> None:
    """Call `each` with every line until the stream ends; an endless line is cut, escapes are taken out."""
    rest = b""
    while data := await stream.read(4096):
        *lines, rest = (rest + data).replace(b"\r", b"\n").split(b"\n")
        rest = rest[-_LONGEST_LINE:]
        for line in lines:
            text = _ESCAPES.sub("", line.decode("utf-8", "replace")).strip()
            if text:
                each("".join(letter if letter.isprintable() else "?" for letter in text)[:_LONGEST_LINE])


_TROUBLES: Final[tuple[tuple[str, type[PushtrainError], str, str], ...]] = (
    (
        r"remote port forwarding failed",
        Unreachable,
        "The ssh server {target} refuses to listen on {remote}: taken there, or not allowed to this key.",
        "Choose another `--ssh-remote` (0: any free one), or allow it (AllowTcpForwarding, permitlisten).",
    ),
    (
        r"Permission denied \(|Too many authentication failures|No more authentication methods",
        ConfigError,
        "The ssh server {target} refuses our key.",
        "`ssh {target}` must work without a question: add our key there, or name it in ~/.ssh/config.",
    ),
    (
        r"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED",
        ConfigError,
        "The ssh server {target} is not known to this machine, or shows another host key than before.",
        "Say `ssh {target}` once by hand, and compare the key's fingerprint with its owner's.",
    ),
    (
        r"Bad configuration option|Can't open user config file|Bad owner or permissions",
        ConfigError,
        "The configuration of the ssh client is wrong.",
        "`ssh -G {target}` names the line.",
    ),
    (
        r"Could not resolve hostname",
        Unreachable,
        "The name of the ssh server {target} is not known.",
        "Check the name, and this machine's network.",
    ),
    (
        r"Connection refused|Connection timed out|No route to host|Network is unreachable|banner exchange",
        Unreachable,
        "The ssh server {target} cannot be reached.",
        "Is it up, and is its port right? Try `ssh {target}` by hand.",
    ),
)
