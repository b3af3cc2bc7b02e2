"""Run the tools that build environments, each in a cage, as one repository's attempt.

A builder is of one of two kinds. Without `code` a tool only fetches and unpacks: nobody's code runs but the
tool's, so it may write the cache that all repositories share, and is given the credentials of the owner's
indexes. With `code` a tool may run what the repository or its dependencies bring (build backends, hooks of
packages): it has a cache of that repository alone, no credentials, and the job's own network.

Everything that the first kind writes lies below one folder, which is shown as a whole: between two mounts
there are no hard links, and an environment would be a copy.
"""

import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pushtrain.core.errors import BuildError, PushtrainError
from pushtrain.core.owner.outward import Outward, listed
from pushtrain.core.owner.rules import Limits
from pushtrain.core.text.addresses import why_not_public
from pushtrain.core.text.forms import Wrong
from pushtrain.core.text.weburl import PORTS
from pushtrain.core.values.isolation import Isolation, JobNetwork
from pushtrain.plumbing.data import outproxy
from pushtrain.plumbing.data.outproxy import JudgedProxy
from pushtrain.plumbing.isolation.inside import command
from pushtrain.plumbing.isolation.uplink import Uplink
from pushtrain.plumbing.programs import proc, process
from pushtrain.plumbing.programs.process import Completed
from pushtrain.ports import Cage, Report, Sandbox, Stop

_ELSEWHERE: Final = 30.0
"""Seconds that ending what runs outside of our own tree may take."""
_INDEXES: Final = (
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_PYTHON_INSTALL_MIRROR",
)
"""Variables in which an owner names servers that tools fetch from."""
_NAME: Final = re.compile(r"[\w.-]+=")
"""What stands before the URL of an index that has a name."""
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
        hosts: Of the owner's network what may be reached beside indexes, as in `allow_data_hosts`.
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
        hosts: Sequence[str] = (),
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
        self._hosts = hosts
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
        network = self._reached()
        with ExitStack() as held:
            tmp = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="tool-", dir=self._tools)))
            judged = held.enter_context(self._judged()) if network is not self._public() else None
            cage = Cage(
                writable=_outermost((*writable, tmp, self.cache) if self.code else (*writable, self._shared)),
                readable=tuple(path for path in (self._tools / "python", *readable) if path.exists()),
                own=(*writable, tmp, self.cache),
                tmp=tmp,
                network=network,
                limits=self._limits,
            )
            try:
                enclosure = self._sandbox.enclose(cage)
                uplink = self._uplink() if enclosure.confinement.uplink else None
            except PushtrainError as error:
                raise BuildError(f"The build could not be isolated: {error}") from error
            mark = f"build.{tmp.name}"
            variables = {**env, proc.ATTEMPT_MARK: mark}
            if self.caged:
                variables |= {"HOME": str(tmp), "TMPDIR": str(tmp)}
            if judged:
                variables = {name: value for name, value in variables.items() if name not in outproxy.DIRECT}
                variables |= judged.variables
            argv, given = command(enclosure, words, variables, uplink)
            try:
                done = process.run(
                    argv,
                    cwd=cwd,
                    env=given,
                    stop=self.stop,
                    timeout=timeout,
                    line=line,
                    pass_fds=uplink.descriptors if uplink else (),
                )
                if done.code and judged and judged.refused:
                    return replace(done, err=done.err + "\n".join(("", *judged.refused)).encode())
                return done
            finally:
                if self.code:
                    proc.sweep(mark)  # what it has left behind; the sandbox leaves nothing
                if enclosure.ends:
                    with suppress(OSError, TimeoutError):
                        process.run(enclosure.ends, env=enclosure.outside, timeout=_ELSEWHERE)

    def _public(self) -> JobNetwork:
        """The job's network while its environment is built."""
        return self._network if self._network is not JobNetwork.FETCH_ONLY else JobNetwork.INTERNET

    def _reached(self) -> JobNetwork:
        """What the cage lets a tool reach.

        One that runs nobody's code has the owner's network where it must ask a server there; it then does all
        that it does by a proxy that judges (`_judged`).
        """
        if self._public() is not JobNetwork.INTERNET or self.code:
            return self._public()
        proxies = (self._environ.get(name, "") for name in outproxy.NAMES)
        proxies = (one if "://" in one else f"http://{one}" for one in proxies if one)
        if any(_within(one) for one in (*self._indexes(), *proxies)):
            return JobNetwork.FULL
        return JobNetwork.INTERNET

    def _judged(self) -> JudgedProxy:
        """A proxy to public addresses, the owner's own indexes, and what the owner lists beside."""
        return JudgedProxy(Outward((*self._hosts, *_entries(self._indexes()))), self._environ)

    def _indexes(self) -> tuple[str, ...]:
        """The servers that tools fetch from, as the owner or else the tool itself names them."""
        named = (self._environ.get(name, "") for name in _INDEXES)
        return (*(word for text in named for word in text.replace(",", " ").split()), *_PACKAGES)


def _outermost(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Paths without those that lie below another one of them."""
    return tuple(
        one
        for one in dict.fromkeys(paths)
        if not any(one != other and one.is_relative_to(other) for other in paths)
    )


def _entries(urls: Sequence[str]) -> Iterator[str]:
    """The servers at these URLs, as `allow_data_hosts` would list them."""
    for url in urls:
        with suppress(ValueError, Wrong):  # a port that is none
            parts = urlsplit(url.partition("=")[2] if _NAME.match(url) else url)
            port = parts.port or PORTS.get(parts.scheme)
            if parts.hostname and port:
                entry = f"[{parts.hostname}]:{port}" if ":" in parts.hostname else f"{parts.hostname}:{port}"
                listed(entry)
                yield entry


def _within(url: str) -> bool:
    """Whether a server is not on the public internet, as far as its name can be looked up."""
    host = ""
    with suppress(ValueError):
        host = urlsplit(url.partition("=")[2] if _NAME.match(url) else url).hostname or ""
    if not host:
        return False
    with suppress(OSError, ValueError):
        found = {info[4][0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
        return any(why_not_public(ip_address(str(one))) for one in found)
    return False
