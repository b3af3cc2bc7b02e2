"""A real Git host that answers as hosts do on their bad days, in the words that GitHub uses."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pushtrain.demo.host import Host
from served import in_a_thread

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

NAME: Final = "octo/hello"
TOKEN: Final = "a-token"


@dataclass(frozen=True)
class Mood:
    """How requests of git are answered; a mood without a status lets them through."""

    status: int = 0
    says: bytes = b""
    kind: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)
    only: str = ""
    """The end of the paths that it concerns; empty: all."""
    cut: int = 0
    """Bytes of a true answer after which the line is dead, in a mood without a status; 0: all come."""


GOOD: Final = Mood()
UNAUTHORIZED: Final = Mood(
    401,
    b"Invalid username or token. Password authentication is not supported for Git operations.\n",
    headers={"www-authenticate": 'Basic realm="GitHub"'},
)
FORBIDDEN: Final = Mood(
    403,
    b"Permission to octo/hello.git denied to lab.\n",
    headers={"x-proxy-note": "not one of too many requests"},
    only="git-receive-pack",
)
"""Its headers hold words that mean something else where git says them."""
NOT_GRANTED: Final = Mood(403, b"Write access to repository not granted.\n", only="git-receive-pack")
ARCHIVED: Final = Mood(403, b"This repository was archived so it is read-only.\n", only="git-receive-pack")
GONE: Final = Mood(404, b"Repository not found.\n")
_LESS: Final = (
    b"This request was rate-limited due to too many requests. "
    b"Reduce the frequency of your requests or try again later.\n"
)
LIMITED: Final = Mood(429, _LESS, headers={"retry-after": "90"})
LIMITED_WITHOUT_SENSE: Final = Mood(
    429, _LESS, headers={"retry-after": "Mon, 01 Jan 2030 00:00:00 +9999999999999"}
)
LIMITED_WHILE_PUSHING: Final = Mood(429, _LESS, headers={"retry-after": "90"}, only="/git-receive-pack")
LIMITED_SILENTLY: Final = Mood(429, _LESS)
BROKEN_GATEWAY: Final = Mood(502, b"<html><body><h1>502 Bad Gateway</h1></body></html>", kind="text/html")
UNICORN: Final = Mood(503, b"<!DOCTYPE html><title>Unicorn! &middot; GitHub</title>", kind="text/html")
CUT: Final = Mood(only="/git-upload-pack", cut=60_000)
"""The network is lost in the middle of a fetch."""
A_PAGE: Final = Mood(200, b"<html><body>Sign in to the hotel's network</body></html>", kind="text/html")


class MoodyHost(Host):
    """A host with one repository, `octo/hello`."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, token=TOKEN)
        self.mood = GOOD
        self.moved_to = ""
        """The repository's new name, once it was renamed."""
        self.asked: list[str] = []
        """Method, path and query of each request."""

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        target = scope["path"] + (f"?{scope['query_string'].decode()}" if scope["query_string"] else "")
        self.asked.append(f"{scope['method']} {target}")
        mood = self.mood
        if self.moved_to and f"/{NAME}.git" in target:
            place = f"{self.url}{target.replace(NAME, self.moved_to)}"
            mood = Mood(301, headers={"location": place})
        if mood.cut and target.endswith(mood.only):
            send = _until(send, mood.cut)
        if not mood.status or not target.endswith(mood.only):
            await super().__call__(scope, receive, send)
            return
        headers = {"content-type": mood.kind, "content-length": str(len(mood.says)), **mood.headers}
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": mood.status, "headers": pairs})
        await send({"type": "http.response.body", "body": mood.says})

    def rename(self, name: str) -> None:
        """Rename the repository; its old address leads to the new one, as on GitHub."""
        self.folder(NAME).rename(self.folder(name))
        self.moved_to = name

    def protect(self, branch: str) -> None:
        """Protect a branch as GitHub does."""
        hook = self.folder(NAME) / "hooks/update"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(
            f'#!/bin/sh\ntest "$1" = "refs/heads/{branch}" || exit 0\n'
            f'echo "error: GH006: Protected branch update failed for $1." >&2\n'
            'echo "error: Changes must be made through a pull request." >&2\nexit 1\n'
        )
        hook.chmod(0o755)

    def unprotect(self) -> None:
        """Let everybody push to every branch again."""
        (self.folder(NAME) / "hooks/update").unlink()


def _until(send: "Send", most: int) -> "Send":
    """What sends an answer of so many bytes, and leaves out the rest of it."""
    left = most

    async def passed(message: "Message") -> None:
        nonlocal left
        if message["type"] == "http.response.start":
            rest = [pair for pair in message["headers"] if pair[0].lower() != b"content-length"]
            message = {**message, "headers": rest}
        elif message["type"] == "http.response.body":
            piece = message.get("body", b"")[:left]
            left -= len(piece)
            message = {**message, "body": piece}
        await send(message)

    return passed


@contextlib.contextmanager
def moody(root: Path) -> Iterator[MoodyHost]:
    """A moody host while the block runs, in a good mood at first."""
    host = MoodyHost(root)
    with in_a_thread(host) as port:
        host.url = f"http://127.0.0.1:{port}"
        host.create(NAME)
        yield host
