"""Ask for a repository as a stranger would: nothing of the owner's is shown, and nothing of it is reached.

A commit may name any repository as its submodule and any server for its LFS files. Fetched with the owner's
credentials it would bring the owner's private repositories into a job; fetched from an address of the owner's
network it would reach into that. So what the owner did not lend is asked for over http(s) alone, without
credentials (`Git.stranger`), at public addresses, each judged once and then held on to.
"""

import socket
from typing import Final
from urllib.parse import urlsplit

from pushtrain.core.errors import DataError, GitError, PushtrainError
from pushtrain.core.owner.outward import Outward
from pushtrain.core.text.weburl import read
from pushtrain.plumbing.data.dial import judge
from pushtrain.plumbing.git.remotes import is_local, key_of

_PUBLIC: Final = Outward()


def approach(
    remote: str, outward: Outward = _PUBLIC, *, what: str = "A submodule"
) -> tuple[str, tuple[str, ...]]:
    """The URL to ask at, and git's configuration for it.

    Args:
        remote: A remote that was let pass.
        outward: Which addresses may be reached.
        what: What it is, for messages.

    Raises:
        GitError: It is a folder of this machine, or an address that must not be reached.
    """
    if is_local(remote):
        raise GitError(
            f"{what} names {remote!r}, a folder of the executor.", mend=_mend(remote, "Give it an https URL")
        )
    url = _over_https(remote)
    try:
        there = read(url)
        if why := outward.why_not_ask(there):
            raise GitError(f"{what} is at {there.host}, which is {why}.", mend="Give it a public https URL.")
        addresses = judge(outward, there.host, there.port)
    except (ValueError, DataError) as error:
        words = error.message if isinstance(error, DataError) else f"{url!r} {error}"
        raise GitError(f"{what} cannot be fetched: {words}", mend="Give it a public https URL.") from error
    except socket.gaierror:
        return url, ()  # behind a proxy names need not mean anything here; without one, git fails as well
    told = ",".join(f"[{one}]" if one.version == 6 else str(one) for one in addresses)  # noqa: PLR2004  IPv6
    return url, (f"http.curloptResolve={there.host}:{there.port}:{told}",)


def not_lent(error: PushtrainError, remote: str) -> GitError:
    """The error of a stranger who was not let in, with the owner's way to let him in."""
    return GitError(
        f"{error.message.rstrip('.')}, asked for without credentials.", mend=_mend(remote, "Make it public")
    )


def _over_https(remote: str) -> str:
    """A remote as an http(s) URL without a user."""
    if remote.startswith(("https://", "http://")):
        parts = urlsplit(remote)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    host, _, path = key_of(remote).partition("/")
    return f"https://{host.partition(':')[0]}/{path}.git"


def _mend(remote: str, else_: str) -> str:
    return f'{else_}, or ask the owner for `submodules = ["{key_of(remote)}"]` in `[rules]`.'
