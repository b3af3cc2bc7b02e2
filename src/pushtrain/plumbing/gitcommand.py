"""Run the git command safely: no prompts, no hooks, no filters, no stray configuration, errors that teach.

Rules that hold for every call:

- git runs only in repositories that we made and that no job can write.
- A remote is a URL that `validate_remote` let pass: https, http, ssh, or a folder of this machine; never a
  password, never a transport helper, never something that git could take for an option.
- Credentials come from the user's own git configuration and its helpers, from an SSH agent or key, or from a
  token. The token travels in the environment of that one git process and answers only for the remote's own
  host; with a token no other helper is asked, so none can write it down.
- Nothing prompts: git has no terminal (a session of its own) and ssh runs in batch mode.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from pydantic import TypeAdapter, ValidationError

from pushtrain.core.errors import (
    CredentialError,
    GitError,
    NotFound,
    PushRejected,
    PushtrainError,
    StorageError,
    UsageError,
)
from pushtrain.core.model import RepositoryKey
from pushtrain.plumbing import process
from pushtrain.ports import Stop

SAFE: Final = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    "core.autocrlf=false",
    "core.symlinks=true",
    "gc.auto=0",
    "maintenance.auto=false",
    "advice.detachedHead=false",
    "fetch.recurseSubmodules=false",
    "push.recurseSubmodules=no",
    "push.gpgSign=false",
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=60",
)
"""Configuration of every call; it wins over the user's and the system's."""

_KEPT: Final = re.compile(
    r"GIT_(SSH|SSH_COMMAND|SSH_VARIANT|EXEC_PATH|SSL_\w+|HTTP_\w+|PROXY_\w+|CONFIG_(GLOBAL|SYSTEM|NOSYSTEM)"
    r"|CONFIG_(COUNT|KEY_\d+|VALUE_\d+))"
)
"""The only GIT_ variables of ours that git sees: a hook's GIT_DIR must not lead it elsewhere."""

_ANSWER: Final = (
    '!f() { test "$1" = get && printf "username=%s\\npassword=%s\\n"'
    ' "${PUSHTRAIN_GIT_USER:-x-access-token}" "$PUSHTRAIN_GIT_TOKEN"; }; f'
)
_SCP: Final = re.compile(
    r"(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]*@)?(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*):(?P<path>[^:]+)"
)
_CONTROL: Final = re.compile(r"[\x00-\x20\x7f]")
_TOKEN_LIKE: Final = re.compile(r"(gh[oprsu]_|github_pat_|glpat-)|.{40,}")
_REF: Final = re.compile(r"refs/(?!.*(\.\.|//|@\{|/\.|\.lock(/|$)))[^\x00-\x20\x7f~^:?*\[\\]+(?<![/.])")
_LONGEST: Final = 1000
_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_USERINFO: Final = re.compile(r"(?<=://)[^/@\s]+@")
_KEY: Final[TypeAdapter[str]] = TypeAdapter(RepositoryKey)


# --- names that come from outside -------------------------------------------------------------------------


def validate_remote(url: str) -> str:
    """The remote as it is, when git may be given it.

    Raises:
        UsageError: It holds a password, names a transport that we do not speak, or could be an option.
    """
    head = url.partition("/")[0]
    if not 0 < len(url) <= _LONGEST or _CONTROL.search(url) or url.startswith("-") or "::" in head:
        raise _bad_remote(url, "is not a Git URL")
    if "://" not in url:
        if not url.startswith("/") and not _SCP.fullmatch(url):
            raise _bad_remote(url, "is neither a URL nor an absolute path")
        return url
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _bad_remote(url, "is not a Git URL") from error
    if parts.scheme not in {"https", "http", "ssh", "file"}:
        raise _bad_remote(url, f"uses {parts.scheme}://, which is not one of https, ssh, http and file")
    if parts.password is not None or (parts.username and _TOKEN_LIKE.match(parts.username)):
        raise UsageError(
            "The remote's URL holds a password or token.",
            mend="Write it without, and use git's credential helper, an SSH key or PUSHTRAIN_GIT_TOKEN.",
        )
    host = parts.hostname or ""
    if parts.scheme != "file" and (not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.:-]*", host) or port == 0):
        raise _bad_remote(url, "names no host")
    if parts.query or parts.fragment or (parts.username or "").startswith("-"):
        raise _bad_remote(url, "is not a Git URL")
    if parts.scheme == "file" and host not in {"", "localhost"}:
        raise _bad_remote(url, "names a folder of another machine")
    return url


def _bad_remote(url: str, why: str) -> UsageError:
    shown = masked(url)[:120]
    why = "holds a space or a control character" if _CONTROL.search(url) else why
    return UsageError(
        f"The remote {shown!r} {why}.",
        mend="Use https://HOST/PATH, ssh://USER@HOST/PATH, USER@HOST:PATH, or a folder's absolute path.",
    )


def masked(text: str) -> str:
    """The text with user names and passwords of URLs taken out, fit to be shown."""
    return _USERINFO.sub("***@", text)


def key_of(url: str) -> str:
    """The repository key of a remote: `github.com/octo/hello`; `localhost/srv/x` for a folder.

    Raises:
        UsageError: The remote is not valid, or has characters that a key cannot hold.
    """
    validate_remote(url)
    scp = None if "://" in url or url.startswith("/") else _SCP.fullmatch(url)
    if scp:
        host, path = scp["host"], scp["path"]
    elif "://" in url:
        parts = urlsplit(url)
        host, path = parts.hostname or "localhost", unquote(parts.path)
        standard = {"https": 443, "http": 80, "ssh": 22}.get(parts.scheme)
        if parts.port is not None and parts.port != standard:
            host = f"{host}:{parts.port}"
    else:
        host, path = "localhost", url
    path = path.strip("/").removesuffix(".git").rstrip("/")
    key = f"{host.lower()}/{path}"
    try:
        return _KEY.validate_python("" if set(path.split("/")) & {".", ".."} else key)
    except ValidationError as error:
        raise UsageError(
            f"No repository key follows from {masked(url)!r}.",
            mend="Name one beside the remote: `key` in settings.toml, as host/path.",
        ) from error


def is_local(url: str) -> bool:
    """Whether a remote is a folder of this machine."""
    return url.startswith(("/", "file://"))


def check_ref(ref: str) -> str:
    """The ref as it is, when it is a full and legal one.

    Raises:
        UsageError: It is not.
    """
    if len(ref) > _LONGEST or not _REF.fullmatch(ref):
        raise UsageError(f"{ref[:120]!r} is not a full ref name.", mend="Write it as refs/heads/NAME.")
    return ref


def check_commit(commit: str) -> str:
    """The commit as it is, when it is a full object id.

    Raises:
        UsageError: It is not.
    """
    if not _COMMIT.fullmatch(commit):
        raise UsageError(f"{commit[:80]!r} is not a full commit id.", mend="Write all 40 (or 64) hex digits.")
    return commit


# --- the command ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Git:
    """The git command, bound to one repository and one remote's credentials. Safe to use from any thread."""

    folder: Path | None = None
    """The repository (a git dir); None: none, for `ls-remote` and `init`."""
    remote: str = ""
    """The remote that the token answers for."""
    token: str = field(default="", repr=False)

    def run(
        self,
        *args: str | Path,
        input: bytes | None = None,  # noqa: A002  the word that subprocess uses
        stop: Stop | None = None,
        env: Mapping[str, str] | None = None,
        config: Sequence[str] = (),
        doing: str = "",
        ok: Sequence[int] = (0,),
        limit: int = 64 * 1024 * 1024,
        timeout: float | None = None,
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
            limit: Bytes it may print; more is an error.
            timeout: Seconds it may take.

        Raises:
            GitError: It failed (CredentialError, PushRejected, NotFound, StorageError where that is why).
        """
        argv: list[str | Path] = ["git"]
        if self.folder is not None:
            argv.append(f"--git-dir={self.folder}")
        for setting in (*SAFE, *self._credentials(), *config):
            argv += ["-c", setting]
        try:
            done = process.run(
                [*argv, *args],
                cwd=self.folder if self.folder is not None else Path("/"),
                env={**self._environment(), **(env or {})},
                stop=stop,
                input=input,
                limit=limit,
                timeout=timeout,
            )
        except TimeoutError as error:
            raise GitError(
                f"git could not {doing or args[0]}: it took longer than {timeout:g} s.",
                mend="Check the network; it is tried again.",
            ) from error
        except FileNotFoundError as error:
            if self.folder is not None and not self.folder.is_dir():
                raise StorageError(f"The repository {self.folder} is gone.") from error
            raise GitError("git is not installed.", mend="Install it: `apt install git`.") from error
        if done.code not in ok:
            raise explain(done, doing or str(args[0]))
        if done.cut:
            raise GitError(f"git printed more than {limit} bytes when asked to {doing or args[0]}.")
        return done

    def _credentials(self) -> tuple[str, ...]:
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
        for name in ("PUSHTRAIN_GIT_TOKEN", "SSH_ASKPASS", "LANGUAGE"):
            kept.pop(name, None)
        if self.token:
            kept["PUSHTRAIN_GIT_TOKEN"] = self.token
        ssh = self.remote.startswith("ssh://") or ("://" not in self.remote and not is_local(self.remote))
        if self.remote and ssh and not kept.keys() & {"GIT_SSH", "GIT_SSH_COMMAND"} and not _own_ssh():
            kept["GIT_SSH_COMMAND"] = "ssh -oBatchMode=yes -oConnectTimeout=20 -oServerAliveInterval=20"
        return {
            **kept,
            "LC_ALL": "C",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": "https:http:ssh:file",
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_NO_REPLACE_OBJECTS": "1",
        }


@cache
def _own_ssh() -> bool:
    """Whether the user's git configuration names an ssh command; ours would hide it."""
    try:
        return process.run(["git", "config", "--get", "core.sshCommand"], cwd=Path("/")).code == 0
    except OSError:
        return False


# --- what went wrong --------------------------------------------------------------------------------------

_NO_ACCESS: Final = re.compile(
    r"authentication failed|could not read (username|password)|permission denied \(|terminal prompts disabled"
    r"|returned error: 40[137]|invalid (username|credentials)|host key verification failed|access denied"
    r"|permission to \S+ denied|write access to repository not granted|insufficient permission"
)
_ABSENT: Final = re.compile(
    r"repository '?[^\n]*not found|returned error: 404|does not appear to be a git repository"
    r"|does not exist|couldn't find remote ref"
)
_NO_NETWORK: Final = re.compile(
    r"could not resolve host|connection (refused|timed out|reset)|could not connect|failed to connect"
    r"|network is unreachable|early eof|hung up|operation too slow|timed out|gnutls|ssl|returned error: 5\d\d"
    r"|rpc failed"
)
_NO_SPACE: Final = re.compile(r"no space left|disk quota exceeded|input/output error|read-only file system")
_DECLINED: Final = re.compile(
    r"\[remote rejected\][^\n]*(hook declined|protected branch|declined|denied|prohibited|refusing)"
    r"|gh00\d|hook declined"
)
_MOVED: Final = re.compile(
    r"\[rejected\]|fetch first|non-fast-forward|\[remote rejected\]|failed to update ref"
    r"|cannot lock ref|incorrect old value|reference already exists|remote ref updated since"
)
_BROKEN: Final = re.compile(
    r"object file \S+ is empty|loose object \S+ .*corrupt|packfile \S+ (is|cannot|does)|inflate:|bad object"
    r"|index file (corrupt|smaller)|unable to read (tree|sha1)|missing (blob|tree|commit)"
    r"|not a git repository"
)


class BrokenRepository(GitError):
    """Our own copy is damaged, by a power failure perhaps; it can be made anew."""

    code = "git-broken"


def explain(done: process.Completed, doing: str) -> PushtrainError:
    """The error that fits a failed git command: what failed, its own last words, and the mend."""
    said = done.complaint
    lower = said.lower()
    words = _last_words(said) or f"exit code {done.code}"
    failed = f"git could not {doing}: {words}"
    if not failed.endswith("."):
        failed += "."
    if _NO_SPACE.search(lower):
        return StorageError(failed, mend="Free some space, or look at the disk.")
    if _NO_ACCESS.search(lower):
        mend = (
            "Give git access: a credential helper, an SSH key that needs no prompt, or PUSHTRAIN_GIT_TOKEN."
        )
        return CredentialError(failed, mend=mend)
    if _DECLINED.search(lower):
        return GitError(
            failed, mend="The host's rules refused the push: protected branch, hook, or file size."
        )
    if _MOVED.search(lower):
        return PushRejected(failed, mend="Fetch and try again.")
    if _ABSENT.search(lower):
        mend = "Check the remote in settings.toml; hosts also say so when the credentials lack access."
        return NotFound(failed, mend=mend)
    if _NO_NETWORK.search(lower):
        return GitError(failed, mend="Check the network; it is tried again.")
    if _BROKEN.search(lower):
        return BrokenRepository(
            failed, mend="Delete the repository's folder below the state folder; it is rebuilt."
        )
    return GitError(failed)


def _last_words(said: str) -> str:
    """The lines of git's complaint that tell the cause, without credentials."""
    lines = [line.strip() for line in masked(said).splitlines()]
    telling = [
        line for line in lines if line and not line.startswith(("hint:", "warning:", "To ", "remote: \n"))
    ]
    blunt = [line for line in telling if re.match(r"(fatal|error|remote|ERROR|ssh|!)", line)]
    text = "; ".join(dict.fromkeys(blunt or telling))
    return text if len(text) <= 500 else f"…{text[-500:]}"  # noqa: PLR2004  a message, not a log
