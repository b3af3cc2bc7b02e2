"""A push, told as GitHub tells it: a signed `push` event with the documented fields.

Form: https://docs.github.com/en/webhooks/webhook-events-and-payloads#push; signature: `X-Hub-Signature-256`,
HMAC-SHA-256 of the raw body. What was pushed is read from git's own conversation (gitprotocol-pack), not
guessed from the refs before and after: two pushes at the same moment each tell exactly their own.
"""

import hashlib
import hmac
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import urllib3

from pushtrain.core.errors import GitError
from pushtrain.core.values.push import NO_COMMIT

_log = logging.getLogger(__name__)

_PAUSES: Final = (0.2, 1.0, 3.0)
"""Seconds before the second and later tries of one delivery."""
_SIDE_BAND_DATA: Final = 1


@dataclass(frozen=True, slots=True)
class Update:
    """One ref that a push moved; a commit of zeros stands for none."""

    ref: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Author:
    """Who wrote or committed something, and when (ISO 8601)."""

    name: str
    email: str
    date: str


@dataclass(frozen=True, slots=True)
class PushedCommit:
    """One commit of a push, with the files that it touched."""

    id: str
    tree: str
    message: str
    author: Author
    committer: Author
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    modified: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Delivery:
    """One webhook, as it was sent and answered."""

    id: str
    update: Update
    headers: Mapping[str, str]
    body: bytes
    status: int
    """The answer's HTTP status; 0: nobody answered."""
    at: float
    """When it was answered, or given up."""
    seconds: float
    """From the push to the answer."""


# --- what was pushed --------------------------------------------------------------------------------------


def pushed(request: bytes, answer: bytes) -> tuple[Update, ...]:
    """The updates that a `git-receive-pack` request asked for and its answer confirms.

    Args:
        request: The body's beginning, uncompressed, at least up to the first flush packet.
        answer: The whole answer, with or without side bands.
    """
    accepted = set(_accepted(answer))
    wanted = (_command(line) for line in _packets(request))
    return tuple(update for update in wanted if update is not None and update.ref in accepted)


def _packets(data: bytes) -> Iterator[bytes]:
    """The packet lines up to the first flush or the first that is damaged."""
    at = 0
    while at + 4 <= len(data):
        try:
            size = int(data[at : at + 4], 16)
        except ValueError:
            return
        if size < 4 or at + size > len(data):  # noqa: PLR2004  the four digits themselves
            return
        yield data[at + 4 : at + size]
        at += size


def _command(line: bytes) -> Update | None:
    words = line.split(b"\0", 1)[0].decode("utf-8", "replace").rstrip("\n").split(" ", 2)
    match words:
        case [before, after, ref] if len(before) == len(after):
            return Update(ref, before, after)
    return None


def _accepted(answer: bytes) -> Iterator[str]:
    banded = b"".join(line[1:] for line in _packets(answer) if line[:1] == bytes((_SIDE_BAND_DATA,)))
    for line in _packets(banded or answer):
        if line.startswith(b"ok "):
            yield line[3:].decode("utf-8", "replace").rstrip("\n")


# --- how it is told ---------------------------------------------------------------------------------------


def payload(
    *, base_url: str, repository: str, update: Update, commits: Sequence[PushedCommit], forced: bool
) -> bytes:
    """The body of a `push` event.

    Args:
        base_url: The host's address, without a slash at its end.
        repository: Full name: `octo/digits`.
        update: What moved.
        commits: The new commits, oldest first; the last one is the ref's tip.
        forced: Whether commits were thrown away.
    """
    owner, name = repository.split("/", 1)
    page = f"{base_url}/{repository}"
    told = [_commit(page, commit) for commit in commits]
    document = {
        "ref": update.ref,
        "before": update.before,
        "after": update.after,
        "created": update.before == NO_COMMIT,
        "deleted": update.after == NO_COMMIT,
        "forced": forced,
        "base_ref": None,
        "compare": f"{page}/compare/{update.before[:12]}...{update.after[:12]}",
        "commits": told,
        "head_commit": told[-1] if told else None,
        "repository": {
            # A number of the host's own: stable for a name, as GitHub's is for a repository.
            "id": int.from_bytes(hashlib.sha256(repository.encode()).digest()[:4]),
            "name": name,
            "full_name": repository,
            "private": True,
            "owner": {"login": owner, "name": owner, "type": "User"},
            "html_url": page,
            "url": page,
            "clone_url": f"{page}.git",
            "git_url": f"{page}.git",
            "default_branch": "main",
            "fork": False,
        },
        "pusher": {"name": owner, "email": f"{owner}@localhost"},
        "sender": {"login": owner, "type": "User"},
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _commit(page: str, commit: PushedCommit) -> dict[str, Any]:
    return {
        "id": commit.id,
        "tree_id": commit.tree,
        "distinct": True,
        "message": commit.message,
        "timestamp": commit.committer.date,
        "url": f"{page}/commit/{commit.id}",
        "author": {"name": commit.author.name, "email": commit.author.email},
        "committer": {"name": commit.committer.name, "email": commit.committer.email},
        "added": list(commit.added),
        "removed": list(commit.removed),
        "modified": list(commit.modified),
    }


def signature(secret: bytes, body: bytes) -> str:
    """The value of `X-Hub-Signature-256`."""
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()


class Webhooks:
    """Deliveries to one address, each in its own time, off the path of the push that caused it.

    GitHub tries once; a demo whose receiver is still starting is better served by a few tries more.
    """

    def __init__(self, url: str, secret: bytes) -> None:
        self._url = url
        self._secret = secret
        self._http = urllib3.PoolManager(
            maxsize=4, retries=False, timeout=urllib3.Timeout(connect=2, read=10)
        )
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="webhook")
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._sent: list[Delivery] = []

    @property
    def sent(self) -> tuple[Delivery, ...]:
        """Every delivery that was answered, or given up, so far."""
        with self._lock:
            return tuple(self._sent)

    def tell(self, update: Update, body: Callable[[], bytes]) -> None:
        """Deliver a push soon; `body` is asked for in another thread."""
        if not self._ending.is_set():
            self._threads.submit(self._compose, update, body, time.monotonic())

    def again(self, delivery: Delivery) -> Delivery:
        """Deliver once more, with the same delivery id, as GitHub's `Redeliver` button does; wait for it."""
        return self._deliver(delivery.id, delivery.update, delivery.body, time.monotonic())

    def close(self) -> None:
        """Give up what is still waiting."""
        self._ending.set()
        self._threads.shutdown(cancel_futures=True)
        self._http.clear()

    def _compose(self, update: Update, body: Callable[[], bytes], begun: float) -> None:
        try:
            self._deliver(str(uuid.uuid4()), update, body(), begun)
        except GitError as error:
            _log.warning("the webhook for %s could not be made: %s", update.ref, error)

    def _deliver(self, delivery: str, update: Update, body: bytes, begun: float) -> Delivery:
        headers = {
            "User-Agent": "GitHub-Hookshot/pushtrain-demo",
            "Content-Type": "application/json",
            "X-GitHub-Event": "push",
            "X-GitHub-Delivery": delivery,
            "X-Hub-Signature-256": signature(self._secret, body),
        }
        status = self._post(headers, body)
        for pause in _PAUSES:
            if 200 <= status < 500 or self._ending.wait(pause):  # noqa: PLR2004  HTTP's classes
                break
            status = self._post(headers, body)
        done = Delivery(delivery, update, headers, body, status, time.time(), time.monotonic() - begun)
        with self._lock:
            self._sent.append(done)
        return done

    def _post(self, headers: Mapping[str, str], body: bytes) -> int:
        try:
            return self._http.request("POST", self._url, body=body, headers=headers).status
        except urllib3.exceptions.HTTPError as error:
            _log.info("nobody took the webhook: %s", type(error).__name__)
            return 0
