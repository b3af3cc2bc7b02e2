"""What went wrong when git failed: the error that fits, from git's own words.

Git has one exit code for everything, so its complaint (in the C locale) is read; what is not recognised stays
a plain GitError. No message holds a credential.
"""

import re
import signal
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Final

from pushtrain.core.errors import (
    CredentialError,
    GitError,
    NotFound,
    PushRejected,
    PushtrainError,
    StorageError,
)
from pushtrain.plumbing.git.remotes import masked
from pushtrain.plumbing.programs.process import Completed

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
    r"|no such host|i/o timeout|batch response: .*server error|rpc failed|network is down|broken pipe"
    r"|no route to host|connection( to \S+)? closed|empty reply|unable to access 'http"
    r"|unexpected disconnect|bytes of (body|length header)|expected flush after ref listing"
)
_PATH: Final = re.compile(r"(?<=:)//\S+|(?<![\w.:/])/\S+")
"""Where something lies, here or there: a repository called `classlib` is no trouble with SSL."""
_LIMITED: Final = re.compile(
    r"returned error: 429|http 429|rate.limited|rate limit exceeded|secondary rate limit|too many requests"
)
_NO_HOST: Final = re.compile(
    r"no dav locking support|git-http-push failed|not valid: is this a git repository"
    r"|unable to update url base from redirection"
)
_TRACED: Final = re.compile(r"^\d\d:\d\d:\d\d\.\d+ http\.c:\d+ .*\n?", re.MULTILINE)
_RETRY_AFTER: Final = re.compile(r"<= Recv header: retry-after: *([^\n]+)", re.IGNORECASE)
_STATUS: Final = re.compile(r"<= Recv header: HTTP/[\d.]+ (\d)")
_GITS_OWN: Final = "application/x-git-"
"""With what each answer of a Git host begins its type, its errors apart."""
_NO_SPACE: Final = re.compile(r"no space left|disk quota exceeded|input/output error|read-only file system")
_DECLINED: Final = re.compile(
    r"\[remote rejected\][^\n]*(hook declined|protected branch|declined|denied|prohibited|refusing)"
    r"|gh00\d|hook declined|returned error: 413|http 413"
)
_MOVED: Final = re.compile(
    r"\[rejected\]|fetch first|non-fast-forward|\[remote rejected\]|failed to update ref"
    r"|cannot lock ref|incorrect old value|reference already exists|remote ref updated since"
)
_BROKEN: Final = re.compile(
    r"^(?!remote:)[^\n]*("
    r"object file \S+ is empty|(loose|packed) object \S+ .*corrupt|packfile \S+ (is|cannot|does)|inflate:"
    r"|bad object"
    r"|index file (corrupt|smaller)|unable to read (tree|sha1)|missing (blob|tree|commit)"
    r"|not a git repository)",
    re.MULTILINE,
)
"""Of our own copy: what the host says of its own is no reason to throw ours away."""


_UNSAFE: Final = re.compile(
    r"fsck error|invalid path '|object [0-9a-f]+: \w+: |refusing to (work with|create)|bad tree"
    r"|file ?name too long|exceeded maximum allowed tree depth|malformed mode in tree"
)
_TOO_LARGE: Final = re.compile(r"out of memory|died of signal (25|11)|file too large|memory exhausted")
_NO_PACK: Final = "invalid index-pack output"
"""What git says last of a pack that it could not take in, cut off by the network or not."""
_KILLED: Final = re.compile(
    r"^(?!remote:|[^\n]*(pack-objects|upload-pack|receive-pack))[^\n]*died of signal (9|15)", re.MULTILINE
)
"""Of our own programs: the host's are no sign of want of memory here, and by SSH it says of them as we do."""


_LIMITED_PAUSE: Final = 60.0
_LONGEST_WISH: Final = 3600.0


class PrintedTooMuch(GitError):
    """Git had more to say than we are willing to hold."""


class UnsafeContent(GitError):
    """What the repository holds at that commit is dangerous or beyond its limits, and is not taken in."""

    code = "git-unsafe"
    exit_code = 9
    status = 422


class PushDeclined(GitError):
    """The host's own rules are against what was pushed; pushing the same again is of no use."""

    code = "push-declined"


class Unanswered(GitError):
    """The host cannot be reached, or what answers is none; it does not depend on what was asked."""


class ShutOut(GitError):
    """The host has let this machine in before, and does not at the moment: a token has ended, perhaps."""


class RateLimited(GitError):
    """The host asks for fewer requests; it says when it will answer again, or not.

    Args:
        message: What failed and why.
        mend: What to do about it.
        after: Seconds for which the host asks to be left alone; 0: it did not say.
    """

    code = "rate-limited"

    def __init__(self, message: str, *, mend: str = "", after: float = 0) -> None:
        super().__init__(message, mend=mend)
        self.after = after

    @property
    def patience(self) -> float:
        """Seconds for which to leave it alone: as it asks, an hour at most; a minute if it does not say."""
        return min(self.after, _LONGEST_WISH) or _LIMITED_PAUSE


class Killed(GitError):
    """Git was ended from outside: by the kernel for want of memory, by whoever shut the machine down."""

    code = "git-killed"


class BrokenRepository(GitError):
    """Our own copy is damaged, by a power failure perhaps; it can be made anew."""

    code = "git-broken"


TRACE: Final = {"GIT_TRACE_CURL": "1", "GIT_TRACE_CURL_NO_DATA": "1", "GIT_TRACE_REDACT": "1"}
"""Variables by which git tells the headers of a host's answers, among them when to come back."""


def check_host(done: Completed, doing: str) -> None:
    """Refuse what was heard of something that is no Git host.

    Git takes any page for a host of the old kind, which serves files, and one without branches: a hotel's
    sign-in page would have deleted them all.

    Args:
        done: A call to a remote, with the headers that `TRACE` adds; by SSH there are none.
        doing: What it was to do.

    Raises:
        Unanswered: A page answered, for example of a network that wants somebody to sign in.
    """
    statuses = _STATUS.findall(done.complaint)
    if statuses and statuses[-1] == "2" and _GITS_OWN not in done.complaint.lower():
        raise Unanswered(f"git could not {doing}: a page answered, in another protocol.", mend=_NO_HOST_MEND)


def explain(done: Completed, doing: str, *, now: float = 0) -> PushtrainError:
    """The error that fits a failed git command: what failed, its own last words, and the mend.

    Args:
        done: How it ended; headers that `TRACE` adds are looked at and left out.
        doing: What it was to do.
        now: Seconds since the epoch, for hosts that say when to come back by the clock.
    """
    said = _TRACED.sub("", done.complaint)
    lower = said.lower()
    words = _last_words(said) or f"exit code {done.code}"
    failed = f"git could not {doing}: {words}"
    if not failed.endswith("."):
        failed += "."
    if _NO_SPACE.search(lower):
        return StorageError(failed, mend="Free some space, or look at the disk.")
    if _KILLED.search(lower) or done.code in {-signal.SIGKILL, -signal.SIGTERM}:
        return Killed(
            f"git could not {doing}: it was ended from outside ({words}).",
            mend="Look whether the machine runs out of memory; it is tried again.",
        )
    gave_up = _NO_PACK in lower and not _NO_NETWORK.search(_PATH.sub("", lower))
    if _TOO_LARGE.search(lower) or gave_up or done.code == -signal.SIGXFSZ:
        return UnsafeContent(
            f"git could not {doing}: it is larger than it may be here ({words}).",
            mend="Keep large files in Git LFS; the owner's limits are in `rules.limits`.",
        )
    if _UNSAFE.search(lower):
        return UnsafeContent(
            failed, mend="Take it out of the repository's history: Git hosts refuse it, too."
        )
    if _LIMITED.search(lower):
        after = _pause(_RETRY_AFTER.findall(done.complaint), now)
        when = f"; it asks to be left alone for {after:.0f} s" if after else ""
        return RateLimited(f"{failed.rstrip('.')}{when}.", mend="It is tried again by itself.", after=after)
    return _ordinary(failed, lower)


def _pause(said: Sequence[str], now: float) -> float:
    """The seconds that the last `Retry-After` tells; 0: none, or nothing that can be read."""
    if not said:
        return 0.0
    text = said[-1].strip()
    if text.isdecimal():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0


_NO_HOST_MEND: Final = (
    "What answers there is no Git host: a sign-in page of the network, a proxy? It is tried again."
)
_ORDINARY: Final[tuple[tuple[re.Pattern[str], type[PushtrainError], str], ...]] = (
    (
        _NO_ACCESS,
        CredentialError,
        "Give git access: a credential helper, an SSH key that needs no prompt, or PUSHTRAIN_GIT_TOKEN.",
    ),
    (_DECLINED, PushDeclined, "The host's rules refused the push: protected branch, hook, or file size."),
    (_MOVED, PushRejected, "Fetch and try again."),
    (_NO_HOST, Unanswered, _NO_HOST_MEND),
    (
        _ABSENT,
        NotFound,
        "Check the remote in settings.toml; hosts also say so when the credentials lack access.",
    ),
    (_NO_NETWORK, Unanswered, "Check the network; it is tried again."),
    (
        _BROKEN,
        BrokenRepository,
        "Delete the repository's folder below the state folder; it is rebuilt.",
    ),
)
"""What goes wrong in any week, the first that fits: git's words, the error, the mend."""


def _ordinary(failed: str, lower: str) -> PushtrainError:
    for words, error, mend in _ORDINARY:
        if words.search(lower if words is not _NO_NETWORK else _PATH.sub("", lower)):
            return error(failed, mend=mend)
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
