"""Run the git command safely: no prompts, no hooks, no filters, no stray configuration, errors that teach.

Rules that hold for every call:

- git runs only in repositories that we made and that no job can write.
- What a repository holds is checked before any of it is written: an object that Git itself would call broken
  or dangerous is not taken in, and a fetch is limited in bytes, memory and time.
- A remote is a URL that `validate_remote` let pass: https, http, ssh, or a folder of this machine; never a
  password, never a transport helper, never something that git could take for an option.
- Credentials come from the user's own git configuration and its helpers, from an SSH agent or key, or from a
  token. The token travels in the environment of that one git process and answers only for the remote's own
  host; with a token no other helper is asked, so none can write it down.
- What the owner did not name, such as a submodule's URL, is asked for as a stranger: without any credential,
  configuration or agent of the owner's, over http(s) alone, no redirect followed.
- Nothing prompts: git has no terminal (a session of its own) and ssh runs in batch mode.
"""

import os
import re
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from pushtrain.core.errors import GitError, StorageError
from pushtrain.plumbing.git.complaint import TRACE, PrintedTooMuch, Unanswered, check_host, explain
from pushtrain.plumbing.git.remotes import is_local
from pushtrain.plumbing.programs import process

if TYPE_CHECKING:
    from pushtrain.ports import Stop

SAFE: Final = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    "core.autocrlf=false",
    "core.symlinks=true",
    "core.protectHFS=true",
    "core.protectNTFS=true",
    "core.sparseCheckout=false",
    "core.splitIndex=false",
    "safe.bareRepository=explicit",
    "fetch.fsckObjects=true",
    "gc.auto=0",
    "maintenance.auto=false",
    "advice.detachedHead=false",
    "fetch.recurseSubmodules=false",
    "push.recurseSubmodules=no",
    "push.gpgSign=false",
    "push.followTags=false",
    "submodule.recurse=false",
    "log.showSignature=false",
    "transfer.bundleURI=false",
    "http.followRedirects=initial",
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=60",
)
"""Configuration of every call; it wins over the user's and the system's."""

_FORGIVEN: Final = (
    "badDate", "badDateOverflow", "badEmail", "badName", "badTagName", "badTimezone", "missingEmail",
    "missingNameBeforeEmail", "missingSpaceBeforeDate", "missingSpaceBeforeEmail", "missingTaggerEntry",
    "multipleAuthors", "zeroPaddedDate", "zeroPaddedFilemode",
)  # fmt: skip
"""What old tools wrote into commits that are in many repositories for good; none of it does anything here."""
FETCH: Final = (
    "transfer.unpackLimit=1",
    "fetch.writeCommitGraph=false",
    *(f"fetch.fsck.{name}=ignore" for name in _FORGIVEN),
)
"""Configuration of a fetch: it arrives as one pack, and old sins are no reason to refuse it."""
GUARDED: Final = {resource.RLIMIT_DATA: 2 * 1024**3}
"""Memory of a git process that reads what a stranger wrote: a few bytes of a pack may mean any number."""
LONGEST: Final = 3600.0
"""Seconds that a fetch or a checkout may take."""
_LONGEST: Final = 600.0
"""Seconds that any other command may take for which nobody said otherwise."""

_KEPT: Final = re.compile(
    r"GIT_(SSH|SSH_COMMAND|SSH_VARIANT|EXEC_PATH|SSL_\w+|HTTP_\w+|PROXY_\w+|CONFIG_(GLOBAL|SYSTEM|NOSYSTEM)"
    r"|CONFIG_(COUNT|KEY_\d+|VALUE_\d+))"
)
"""The only GIT_ variables of ours that git sees: a hook's GIT_DIR must not lead it elsewhere."""
_OF_A_STRANGER: Final = re.compile(
    r"GIT_(SSL_(NO_VERIFY|CAINFO|CAPATH|VERSION|CIPHER_LIST)|HTTP_\w+|PROXY_SSL_CAINFO|EXEC_PATH)"
)
"""Of these, what says nothing of who the owner is."""
_OWNERS: Final = re.compile(
    r"SSH_\w+|KRB5\w*|XDG_CONFIG_HOME|NETRC|HOME|PUSHTRAIN_\w+|\w*(TOKEN|SECRET|PASSWORD)\w*"
)
"""Variables that could lead a program to the owner's credentials."""
_NETWORK: Final = r"^http\.(proxy|proxyauthmethod|proxysslcainfo|sslcainfo|sslcapath|sslbackend)$"

_ANSWER: Final = (
    '!f() { test "$1" = get && printf "username=%s\\npassword=%s\\n"'
    ' "${PUSHTRAIN_GIT_USER:-x-access-token}" "$PUSHTRAIN_GIT_TOKEN"; }; f'
)
_CALLS: Final = frozenset({"fetch", "ls-remote", "push"})
"""Subcommands that talk to a remote."""
_COMPLAINT: Final = 256 * 1024
"""Bytes kept of what git complains of."""


@dataclass(frozen=True, slots=True)
class Git:
    """The git command, bound to one repository and one remote's credentials. Safe to use from any thread."""

    folder: Path | None = None
    """The repository (a git dir); None: none, for `ls-remote` and `init`."""
    remote: str = ""
    """The remote that the token answers for."""
    token: str = field(default="", repr=False)
    stranger: bool = False
    """Whether the remote is asked without anything of the owner's."""
    fixed: tuple[str, ...] = ()
    """More `key=value` settings of every call."""

    def run(
        self,
        *args: str | Path,
        input: bytes | None = None,  # noqa: A002  the word that subprocess uses
        stop: "Stop | None" = None,
        env: Mapping[str, str] | None = None,
        config: Sequence[str] = (),
        doing: str = "",
        ok: Sequence[int] = (0,),
        limit: int = 64 * 1024 * 1024,
        timeout: float = _LONGEST,
        take: Callable[[bytes], None] | None = None,
        caps: Mapping[int, int] | None = None,
        lowly: bool = False,
    ) -> process.Completed:
        """Run `git ARGS` and return how it ended.

        Args:
            args: The subcommand and its arguments; what comes from outside stands behind `--`.
            input: What it reads on standard input.
            stop: Called now and then; what it raises ends git.
            env: Variables beside the usual ones, such as GIT_INDEX_FILE.
            config: More `key=value` settings.
            doing: For the error: `fetch from github.com/octo/hello`.
            ok: Exit codes that are an answer, not a failure.
            limit: Bytes it may print; more is an error, and ends it.
            timeout: Seconds it may take.
            take: Gets what it prints instead, piece by piece; what it raises ends git.
            caps: Resource limits, by their `RLIMIT_` number.
            lowly: Whether everybody else's work goes first.

        Raises:
            GitError: It failed (CredentialError, PushRejected, UnsafeContent, NotFound, StorageError where
                that is why).
        """
        printed = bytearray()

        def keep(piece: bytes) -> None:
            printed.extend(piece)
            if len(printed) > limit:
                raise PrintedTooMuch(f"git printed more than {limit} bytes when asked to {doing or args[0]}.")

        argv: list[str | Path] = ["git"]
        if self.folder is not None:
            argv.append(f"--git-dir={self.folder}")
        for setting in (*SAFE, *self._credentials(), *self.fixed, *config):
            argv += ["-c", setting]
        try:
            done = process.run(
                [*argv, *args],
                cwd=self.folder if self.folder is not None else Path("/"),
                env={**self._environment(), **(TRACE if args[0] in _CALLS else {}), **(env or {})},
                stop=stop,
                input=input,
                limit=_COMPLAINT,
                timeout=timeout,
                take=take or keep,
                caps=caps,
                lowly=lowly,
            )
        except TimeoutError as error:
            raise Unanswered(
                f"git could not {doing or args[0]}: it took longer than {timeout:g} s.",
                mend="Check the network; it is tried again.",
            ) from error
        except FileNotFoundError as error:
            if self.folder is not None and not self.folder.is_dir():
                raise StorageError(f"The repository {self.folder} is gone.") from error
            raise GitError("git is not installed.", mend="Install it: `apt install git`.") from error
        if args[0] in _CALLS:
            check_host(done, doing or str(args[0]))
        if done.code not in ok:
            raise explain(done, doing or str(args[0]), now=time.time())
        return replace(done, out=bytes(printed))

    def _credentials(self) -> tuple[str, ...]:
        if self.stranger:
            return ("credential.helper=", "core.askPass=", "http.followRedirects=false", *_network())
        if not self.token or not self.remote.startswith(("https://", "http://")):
            return ()
        parts = urlsplit(self.remote)
        place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        return ("credential.helper=", f"credential.{place}.helper={_ANSWER}")

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("GIT_") or _KEPT.fullmatch(name)
        }
        for name in (*_NOT_GITS, "SSH_ASKPASS", "LANGUAGE"):
            kept.pop(name, None)
        if self.stranger:
            return _as_a_stranger(kept) | _ALWAYS
        if self.token:
            kept["PUSHTRAIN_GIT_TOKEN"] = self.token
        ssh = self.remote.startswith("ssh://") or ("://" not in self.remote and not is_local(self.remote))
        if self.remote and ssh and not kept.keys() & {"GIT_SSH", "GIT_SSH_COMMAND"} and not _own_ssh():
            kept["GIT_SSH_COMMAND"] = _SSH
        return {**kept, "GIT_ALLOW_PROTOCOL": "https:http:ssh:file"} | _ALWAYS


_NOT_GITS: Final = (
    "PUSHTRAIN_GIT_TOKEN",
    "PUSHTRAIN_HOST_TOKEN",
    "PUSHTRAIN_WEBHOOK_SECRET",
    "PUSHTRAIN_KEY",
    "NGROK_AUTHTOKEN",
    "HF_TOKEN",
)
"""Credentials in our environment that git and its helpers have no use for; its own token comes from `Git`."""
_SSH: Final = "ssh -a -x -oBatchMode=yes -oConnectTimeout=20 -oServerAliveInterval=20"
_ALWAYS: Final = {
    "LC_ALL": "C",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_PROTOCOL_FROM_USER": "0",
    "GIT_LFS_SKIP_SMUDGE": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
}


def _as_a_stranger(kept: Mapping[str, str]) -> dict[str, str]:
    """An environment in which git finds no home, no agent, no ticket, no token and no configuration."""
    plain = {
        name: value
        for name, value in kept.items()
        if _OF_A_STRANGER.fullmatch(name) or not (name.startswith("GIT_") or _OWNERS.fullmatch(name))
    }
    return {
        **plain,
        "HOME": os.devnull,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ASKPASS": "true",
        "GIT_ALLOW_PROTOCOL": "https:http",
    }


@cache
def _network() -> tuple[str, ...]:
    """How the owner's configuration says that the network is reached: proxy and certificates, no more."""
    try:
        done = process.run(["git", "config", "--null", "--get-regexp", _NETWORK], cwd=Path("/"), timeout=20)
    except (OSError, TimeoutError):
        return ()
    entries = (entry.partition("\n") for entry in done.out.decode("utf-8", "replace").split("\0") if entry)
    return tuple(f"{name}={value}" for name, _, value in entries)


@cache
def _own_ssh() -> bool:
    """Whether the user's git configuration names an ssh command; ours would hide it."""
    try:
        done = process.run(["git", "config", "--get", "core.sshCommand"], cwd=Path("/"), timeout=20)
    except (OSError, TimeoutError):
        return False
    return done.code == 0
