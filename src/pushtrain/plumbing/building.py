"""Run the tools that build environments, each in a cage, as one repository's attempt.

A builder is of one of two kinds. Without `code` a tool only fetches and unpacks: nobody's code runs but the
tool's, so it may write the cache that all repositories share, and is given the credentials of the owner's
indexes. With `code` a tool may run what the repository or its dependencies bring (build backends, hooks of
packages): it has a cache of that repository alone, no credentials, and the job's own network.

Everything that the first kind writes lies below one folder, which is shown as a whole: between two mounts
there are no hard links, and an environment would be a copy.
"""

import os
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pushtrain.core.addresses import why_not_public
from pushtrain.core.errors import BuildError, PushtrainError
from pushtrain.core.model import Isolation, JobNetwork
from pushtrain.core.rules import Limits
from pushtrain.plumbing import process
from pushtrain.plumbing.inside import command
from pushtrain.plumbing.process import Completed
from pushtrain.plumbing.uplink import Uplink
from pushtrain.ports import Cage, Report, Sandbox, Stop

_ELSEWHERE: Final = 30.0
"""Seconds that ending what runs outside of our own tree may take."""
_NAMED: Final = (
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_INDEX",
    "UV_INDEX_URL",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
)
"""Variables in which an owner names servers that tools fetch from, or by."""
_PACKAGES: Final = ("https://pypi.org", "https://files.pythonhosted.org")
"""Where packages come from unless an owner says otherwise; the resolver may name a mirror in their place."""


class CagedBuilder:
    """Builds for one attempt.

    Args:
        sandbox: What tools are kept in.
        shared: The folder that holds the environments and the cache that all repositories share.
        tools: That cache, below it.
        own: The repository's own cache.
        network: What the job reaches while its environment is built.
        uplink: Takes the attempt's uplink; asked only when one is needed.
        limits: The owner's.
        report: Told what goes on.
        stop: Called now and then.
        code: Whether tools may run code that is not theirs.
        environ: The executor's own environment.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        shared: Path,
        tools: Path,
        own: Path,
        network: JobNetwork,
        uplink: Callable[[], Uplink | None],
        limits: Limits,
        report: Report,
        stop: Stop,
        code: bool,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.code = code
        self.report = report
        self.stop = stop
        self.cache = own if code else tools
        self.offline = network is JobNetwork.NONE
        self.caged = sandbox.level is not Isolation.NONE
        self._sandbox = sandbox
        self._shared = shared
        self._tools = tools
        self._network = network
        self._uplink = uplink
        self._limits = limits
        self._environ = environ

    def run(
        self,
        words: Sequence[str | Path],
        *,
        cwd: Path,
        env: Mapping[str, str],
        writable: Sequence[Path] = (),
        readable: Sequence[Path] = (),
        line: Callable[[str], None] | None = None,
        timeout: float | None = None,
    ) -> Completed:
        """Run a tool to its end.

        Args:
            words: The program and its arguments.
            cwd: Its working folder.
            env: Its whole environment, but for `HOME` and `TMPDIR` in a cage.
            writable: What it may write beside its cache.
            readable: What it may read beside the system's programs.
            line: Called with each line that it prints.
            timeout: Seconds it may take.

        Raises:
            BuildError: It could not be isolated.
            TimeoutError, OSError: As `process.run`.
        """
        self.cache.mkdir(parents=True, exist_ok=True)
        # Not in the repository's own cache: what code can write there, nobody else should have to write into.
        self._tools.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="tool-", dir=self._tools) as temporary:
            tmp = Path(temporary)
            cage = Cage(
                writable=_outermost((*writable, tmp, self.cache) if self.code else (*writable, self._shared)),
                readable=tuple(path for path in (self._tools / "python", *readable) if path.exists()),
                tmp=tmp,
                network=self._reached(),
                limits=self._limits,
            )
            try:
                enclosure = self._sandbox.enclose(cage)
                uplink = self._uplink() if enclosure.confinement.uplink else None
            except PushtrainError as error:
                raise BuildError(f"The build could not be isolated: {error}") from error
            home = {"HOME": str(tmp), "TMPDIR": str(tmp)} if self.caged else {}
            mark = f"build.{tmp.name}"
            argv, given = command(enclosure, words, {**env, **home, process.ATTEMPT_MARK: mark}, uplink)
            try:
                return process.run(
                    argv,
                    cwd=cwd,
                    env=given,
                    stop=self.stop,
                    timeout=timeout,
                    line=line,
                    pass_fds=uplink.descriptors if uplink else (),
                )
            finally:
                if self.code:
                    process.sweep(mark)  # what it has left behind; the sandbox leaves nothing
                if enclosure.ends:
                    with suppress(OSError, TimeoutError):
                        process.run(enclosure.ends, env=enclosure.outside, timeout=_ELSEWHERE)

    def _reached(self) -> JobNetwork:
        """The job's network; a tool that runs nobody's code reaches the owner's own index, too."""
        if self._network in {JobNetwork.NONE, JobNetwork.FULL} or self.code:
            return self._network if self._network is not JobNetwork.FETCH_ONLY else JobNetwork.INTERNET
        named = (*(self._environ.get(name, "") for name in _NAMED), *_PACKAGES)
        if any(_within(word) for text in named for word in text.replace(",", " ").split()):
            return JobNetwork.FULL
        return JobNetwork.INTERNET


def _outermost(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Paths without those that lie below another one of them."""
    return tuple(
        one
        for one in dict.fromkeys(paths)
        if not any(one != other and one.is_relative_to(other) for other in paths)
    )


def _within(url: str) -> bool:
    """Whether a server is not on the public internet, as far as its name can be looked up."""
    host = urlsplit(url.rpartition("=")[2] if "://" in url else "").hostname
    if not host:
        return False
    with suppress(OSError, ValueError):
        found = {info[4][0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
        return any(why_not_public(ip_address(str(one))) for one in found)
    return False
