"""One remote file brought to the disk: resumed when interrupted, hashed on the way, trusted at the end.

`download()` knows no protocol. An `Opener` (`plumbing.data.web` for HTTP, `plumbing.data.cloud` for object
stores) answers one question, "the bytes from this offset on", and says from where its answer really begins.
What has arrived stands in a `.part` file, and beside it which version of the remote file it belongs to: the
next try, also that of another process after a kill, goes on from there only if the version is still the same.
The digest decides in the end. A server that announces too much, or sends without end, is stopped at the
limit.
"""

import contextlib
import hashlib
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from pushtrain.core.errors import DataAway, DataError, StorageError
from pushtrain.plumbing.programs.proc import boot_id
from pushtrain.ports import Report, Stop

_BLOCK: Final = 1024 * 1024
_TRIES: Final = 6
"""Tries in a row that bring the file no further, before giving up."""
_STEP: Final = 1024 * 1024
"""Bytes that a try must bring to count as a step further, or a twentieth of a small file: a server that sends
one byte and hangs up, again and again, is given up."""
_ROOM: Final = 1 << 28
"""Free bytes that a download leaves on the disk."""
_ROOM_CHECK: Final = 64 * 1024 * 1024
_LONGEST_PAUSE: Final = 30.0
_STOP_INTERVAL: Final = 0.2


@dataclass(frozen=True, slots=True)
class Version:
    """What a server says that tells one version of a file from another."""

    etag: str = ""
    modified: str = ""

    @property
    def strong(self) -> str:
        """What may guard a resumed transfer (RFC 9110, 13.1.5): a strong ETag, else a date, else nothing."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


@dataclass(frozen=True, slots=True)
class Stream:
    """A server's answer: bytes of one version of a file, from `start` on."""

    version: Version
    chunks: Iterator[bytes]
    start: int = 0
    size: int | None = None
    """Bytes of the whole file; None: the server does not say."""
    unchanged: bool = False
    """The file is the known one; there are no chunks."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a download asks of an opener."""

    offset: int = 0
    version: Version = Version()
    """With an offset: the version that the first bytes belong to. The answer may begin at 0 instead."""
    known: Version = Version()
    """Without an offset: a version that need not be sent again."""


Opener = Callable[[Ask], AbstractContextManager[Stream]]


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may come."""

    size: int = 1 << 50
    """Bytes of one file."""
    spend: Callable[[int], None] = lambda _: None
    """Told of the bytes of every chunk before it is kept; raises to refuse more."""


class Interrupted(Exception):
    """A transfer broke off or never began, for a reason that may pass.

    Args:
        message: What happened.
        after: Seconds that the server asks us to wait.
    """

    def __init__(self, message: str, *, after: float = 0) -> None:
        super().__init__(message)
        self.after = after


class Restart(Interrupted):
    """What has arrived so far is of no use."""


class Nowhere(Interrupted):
    """There is no such server."""


@dataclass(frozen=True, slots=True)
class Got:
    """A file that has arrived whole."""

    sha256: str
    size: int
    version: Version


def download(
    opener: Opener,
    part: Path,
    *,
    title: str,
    sha256: str | None,
    report: Report,
    stop: Stop,
    known: Version | None = None,
    bounds: Bounds | None = None,
    pause: Callable[[float, Stop], None] | None = None,
) -> Got | None:
    """Bring one file whole into `part`; None: it is the known version still, and nothing was written.

    Args:
        opener: Who to ask.
        part: The file to fill; what an earlier try left in it is gone on from.
        title: How the file is called in messages: a URL without its query.
        sha256: What it must be; None: whatever comes.
        report: Told of progress in bytes.
        stop: Called often.
        known: A version that need not be sent again.
        bounds: How much may come.
        pause: Waits between two tries; for tests.

    Raises:
        DataAway: Its server does not answer now, or not to the end.
        DataError: It cannot be had, or is not what its digest says.
        StorageError: There is no room for it.
    """
    wait = pause or _pause
    partial = _Partial(part, bounds or Bounds(), title, pinned=sha256 is not None)
    furthest, tries = partial.offset, 0
    while True:
        stop()
        resumed = partial.offset > 0
        try:
            if not partial.whole and not _transfer(
                opener, partial, known or Version(), report=report, stop=stop
            ):
                return None
        except Interrupted as broken:
            if partial.offset >= furthest + partial.step:
                tries, furthest = 1, partial.offset
            else:
                tries += 1
            if isinstance(broken, Restart) or not partial.resumable:
                partial.reset()
            if tries >= _TRIES:
                kind = DataError if isinstance(broken, Restart | Nowhere) else DataAway
                raise kind(
                    f"{title} could not be fetched: {broken}; {_TRIES} tries in a row brought nothing new.",
                    mend="Run it again later: it goes on from where it stopped.",
                ) from broken
            report(f"{title}: {broken}; trying again", partial.offset, partial.size or 0)
            wait(max(broken.after, _backoff(tries)), stop)
            continue
        got = partial.finish(stop)
        if sha256 is None or got.sha256 == sha256:
            return got
        partial.reset()
        if not resumed:
            raise DataError(
                f"{title} is not what the job pinned: expected sha256 {sha256}, got {got.sha256} "
                f"({got.size} bytes).",
                mend=f"If the new content is right, `pushtrain data add {title}` measures it again.",
            )


def _transfer(opener: Opener, partial: "_Partial", known: Version, *, report: Report, stop: Stop) -> bool:
    """One try; False: the known version is still the right one."""
    ask = Ask(partial.offset, partial.version) if partial.offset else Ask(known=known)
    with opener(ask) as stream:
        if stream.unchanged:
            return False
        _check_continuation(partial, stream)
        with partial.begin(stream, stop) as file:
            for chunk in stream.chunks:
                partial.write(file, chunk)
                report(partial.title, partial.offset, partial.size or 0)
                stop()
    if partial.size is not None and partial.offset < partial.size:
        raise Interrupted(f"the connection closed after {partial.offset} of {partial.size} bytes")
    if partial.size is not None and partial.offset > partial.size:
        raise Restart(f"the server sent {partial.offset} bytes and had announced {partial.size}")
    return True


def _check_continuation(partial: "_Partial", stream: Stream) -> None:
    """Refuse to join bytes of two versions, whatever the server thought of our condition."""
    if not stream.start:
        return
    if stream.start != partial.offset:
        raise Restart(f"the server sent bytes from {stream.start} instead of {partial.offset}")
    if partial.version.strong and stream.version.strong != partial.version.strong:
        raise Restart("the file has changed since it was begun")
    if None not in {partial.size, stream.size} and partial.size != stream.size:
        raise Restart("the file's size has changed since it was begun")


class _Partial:
    """The bytes so far, the version they belong to, and their digest."""

    def __init__(self, path: Path, bounds: Bounds, title: str, *, pinned: bool) -> None:
        self.path = path
        self.title = title
        self._bounds = bounds
        self._room_at = 0
        self.version = Version()
        self.size: int | None = None
        self.offset = 0
        self._pinned = pinned
        self._about = path.with_name(path.name + ".json")
        self._hash = hashlib.sha256()
        self._hashed = 0
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            about = json.loads(self._about.read_bytes())
            self.version = Version(str(about["etag"]), str(about["modified"]))
            self.size = None if about["size"] is None else int(about["size"])
            # Bytes that a power loss may have eaten need a digest to judge them.
            if self.resumable and (pinned or about["boot"] == boot_id()):
                self.offset = path.stat().st_size

    @property
    def resumable(self) -> bool:
        """Whether more may be added later: a version guards it, or a digest will judge the sum."""
        return self._pinned or bool(self.version.strong)

    @property
    def whole(self) -> bool:
        """Whether all of it is here: the process was killed between the last byte and the finish."""
        return self.size is not None and self.offset == self.size > 0

    @property
    def step(self) -> int:
        """Bytes that are a step further."""
        return max(1, min(_STEP, (self.size or _STEP) // 20))

    def reset(self) -> None:
        """Forget what has arrived."""
        self.path.unlink(missing_ok=True)
        self._about.unlink(missing_ok=True)
        self.version, self.size, self.offset = Version(), None, 0

    @contextlib.contextmanager
    def begin(self, stream: Stream, stop: Stop) -> Iterator[BinaryIO]:
        """The file, standing where the stream goes on."""
        self.version, self.size, self.offset = stream.version, stream.size, stream.start
        self._check_size(self.size or 0)
        self._check_room((self.size or 0) - self.offset)
        self._about.write_text(
            json.dumps(
                {
                    "etag": self.version.etag,
                    "modified": self.version.modified,
                    "size": self.size,
                    "boot": boot_id(),
                }
            )
        )
        try:
            with self.path.open("r+b" if stream.start else "wb") as file:
                self._hash_up_to(stream.start, stop)
                file.seek(stream.start)
                file.truncate()
                yield file
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def write(self, file: BinaryIO, chunk: bytes) -> None:
        """Add bytes."""
        self._bounds.spend(len(chunk))
        self._check_size(self.offset + len(chunk))
        if self.offset >= self._room_at:
            self._check_room(len(chunk))
        file.write(chunk)
        self._hash.update(chunk)
        self.offset += len(chunk)
        self._hashed = self.offset

    def finish(self, stop: Stop) -> Got:
        """What it is."""
        self._hash_up_to(self.offset, stop)
        return Got(self._hash.hexdigest(), self.offset, self.version)

    def _check_size(self, size: int) -> None:
        if size > self._bounds.size:
            self.reset()
            raise DataError(
                f"{self.title} has more than the {self._bounds.size} bytes that data may have there.",
                mend="Have its owner raise `rules.limits.data`, or use less.",
            )

    def _check_room(self, more: int) -> None:
        """Refuse what would leave the disk full; a length that is not announced is looked at as it grows."""
        self._room_at = self.offset + _ROOM_CHECK
        disk = shutil.disk_usage(self.path.parent)
        if more and more + _ROOM > disk.free:
            kind = StorageError if more + _ROOM <= disk.total else DataError
            raise kind(
                f"{self.title} has {self.size or 'more'} bytes, and the executor's disk has {disk.free} "
                f"free, of which {_ROOM} must stay free.",
                mend="Free some space there, or use another executor.",
            )

    def _hash_up_to(self, count: int, stop: Stop) -> None:
        if self._hashed == count and count:
            return
        self._hash, self._hashed = hashlib.sha256(), 0
        if count:
            with self.path.open("rb") as file:
                while self._hashed < count and (block := file.read(min(_BLOCK, count - self._hashed))):
                    self._hash.update(block)
                    self._hashed += len(block)
                    stop()


def _unwritable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"The download could not be written to {path}: {error.strerror or error}.",
        mend="Free some space, or check the state folder's permissions.",
    )


def _backoff(tries: int) -> float:
    return float(min(_LONGEST_PAUSE, 0.25 * 2**tries) * random.uniform(0.5, 1))  # noqa: S311  jitter, no secret


def _pause(seconds: float, stop: Stop) -> None:
    end = time.monotonic() + min(seconds, 2 * _LONGEST_PAUSE)
    while (left := end - time.monotonic()) > 0:
        stop()
        time.sleep(min(left, _STOP_INTERVAL))  # a server asked for this pause; `stop` is asked meanwhile
