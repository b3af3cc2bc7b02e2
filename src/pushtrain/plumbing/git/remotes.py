"""Names that come from outside, before git sees them: remotes, repository keys, refs, commits.

A name is passed on as it is or refused; nothing is repaired. What could be taken for an option, another
transport, another ref or a path that leads elsewhere never gets as far as a command line.
"""

import re
from typing import Final
from urllib.parse import unquote, urlsplit

from pydantic import TypeAdapter, ValidationError

from pushtrain.core.errors import UsageError
from pushtrain.core.values.value import RepositoryKey

_USER: Final = r"[A-Za-z0-9_][A-Za-z0-9._+-]*"
_SCP: Final = re.compile(rf"(?P<user>{_USER}@)?(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*):(?P<path>[^:-][^:]*)")
_CONTROL: Final = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff]")
_TOKEN_LIKE: Final = re.compile(r"(gh[oprsu]_|github_pat_|glpat-)|.{40,}")
_REF: Final = re.compile(
    r"refs/(?!.*(\.\.|//|@\{|/\.|\.lock(/|$)))[^\x00-\x20\x7f~^:?*\[\\\ud800-\udfff]+(?<![/.])"
)
_LONGEST: Final = 1000
_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_USERINFO: Final = re.compile(r"(?<=://)[^/@\s]+@")
_BEFORE_HOST: Final = re.compile(r"(?<=://).*@", re.DOTALL)
_KEY: Final[TypeAdapter[str]] = TypeAdapter(RepositoryKey)


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
    if parts.query or parts.fragment or not re.fullmatch(_USER, parts.username or "git"):
        raise _bad_remote(url, "is not a Git URL")
    if parts.scheme == "file" and host not in {"", "localhost"}:
        raise _bad_remote(url, "names a folder of another machine")
    return url


def _bad_remote(url: str, why: str) -> UsageError:
    shown = _BEFORE_HOST.sub("***@", url)[:120]  # a password may hold any character, slashes too
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
            f"No repository key follows from {_BEFORE_HOST.sub('***@', url)!r}.",
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
