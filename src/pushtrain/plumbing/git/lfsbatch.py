"""Fetch Git LFS contents from a server that the owner did not name, as a stranger, and from nowhere near.

A commit chooses that server, and the server chooses where the contents are. So git-lfs, which goes wherever
it is told, is not let near it: every URL, a redirect's too, is judged by `plumbing.data.web`, and connections
go to the addresses that were judged. Nothing of the owner's is sent; what an answer wants to have sent goes
to the host that it names. A content counts when it has the digest and no more than the bytes of its pointer.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Final

from pushtrain.core.errors import Cancelled, DataAway, DataError, GitError
from pushtrain.core.owner.outward import Outward
from pushtrain.core.text.weburl import shown
from pushtrain.core.wire import lfsapi
from pushtrain.core.wire.lfsapi import Source
from pushtrain.plumbing.data.download import Bounds, Opener, download
from pushtrain.plumbing.data.web import Web
from pushtrain.plumbing.git.command import LONGEST
from pushtrain.plumbing.git.complaint import Unanswered, UnsafeContent
from pushtrain.ports import Stop

if TYPE_CHECKING:
    from pushtrain.plumbing.data.ledger import Ledger

_WORKERS: Final = 8
_MOST: Final = 100_000
"""Contents of one commit: each is a request to a server of somebody's choice."""
_PUBLIC: Final = "Make it public, bring the files by `data`, or set `lfs = false`."


class LfsServer:
    """One server.

    Args:
        url: Its URL, as `lfs.url` has it.
        store: The mirror's `lfs` folder; contents go below `objects` there, unfinished ones stay beside them.
        outward: Which addresses may be reached.
        stop: Called often, from several threads; what it raises ends the work.
        toll: Counts what comes, and holds it to its pace.
    """

    def __init__(
        self, url: str, store: Path, *, outward: Outward, stop: Stop | None, toll: "Ledger | None" = None
    ) -> None:
        self._url = url.rstrip("/")
        self._store = store
        self._unfinished = store / "unfinished"
        self._outward = outward
        self._metered: Callable[[Opener], Opener] = toll.metered if toll else lambda opener: opener
        self._halted = Event()
        self._ask_to_stop = stop
        self._until = time.monotonic() + LONGEST

    def fetch(self, sizes: Mapping[str, int]) -> None:
        """Bring contents (digest → size) into the store.

        Raises:
            GitError: One is not to be had, or is something else.
            UnsafeContent: There are too many.
            Exhausted: No more may come today.
        """
        if len(sizes) > _MOST:
            raise UnsafeContent(
                f"The commit names {len(sizes):,} Git LFS contents at {shown(self._url)}, a server that the "
                f"owner did not name; {_MOST:,} are taken from there.",
                mend="Bring data by `data`, or set `lfs = false`.",
            )
        self._unfinished.mkdir(parents=True, exist_ok=True)
        for left in self._unfinished.iterdir():
            if left.name.partition(".")[0] not in sizes:
                left.unlink(missing_ok=True)
        web = Web(outward=self._outward, workers=_WORKERS)
        try:
            for portion in lfsapi.batches(sizes):
                self._portion(web, portion)
        finally:
            web.close()
        with contextlib.suppress(OSError):
            self._unfinished.rmdir()

    def _portion(self, web: Web, sizes: Mapping[str, int]) -> None:
        sources = self._where(web, sizes)
        one = partial(self._one, web)
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="pushtrain-lfs") as pool:
            tasks = [pool.submit(one, oid, size, sources[oid]) for oid, size in sizes.items()]
            try:
                for task in as_completed(tasks):
                    task.result()
            except BaseException:
                self._halted.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _where(self, web: Web, sizes: Mapping[str, int]) -> dict[str, Source]:
        """Ask the server where contents are."""
        url = f"{self._url}/objects/batch"
        with tempfile.TemporaryDirectory(prefix="batch.", dir=self._store) as folder:
            part = Path(folder) / "answer"
            try:
                download(
                    web.opener(url, body=lfsapi.request(sizes), kind=lfsapi.MEDIA),
                    part,
                    title=f"The answer of {shown(url)}",
                    sha256=None,
                    report=lambda *_: None,
                    stop=self._stop,
                    bounds=Bounds(lfsapi.LARGEST_ANSWER),
                )
            except DataError as error:
                raise _kind(error)(
                    f"Git LFS files cannot be fetched: {error.message}", mend=_PUBLIC
                ) from error
            return lfsapi.answer(part.read_bytes(), sizes)

    def _one(self, web: Web, oid: str, size: int, source: Source) -> None:
        try:
            self._bring(web, oid, size, source)
        except DataError as error:
            if not source.expires:
                raise _not_had(oid, error) from error
            try:  # others were fetched first, and its URL may have ended meanwhile
                self._bring(web, oid, size, self._where(web, {oid: size})[oid])
            except DataError as again:
                raise _not_had(oid, again) from again

    def _bring(self, web: Web, oid: str, size: int, source: Source) -> None:
        part = self._unfinished / oid
        download(
            self._metered(web.opener(source.href, headers=source.header)),
            part,
            title=f"{shown(source.href)}",
            sha256=oid,
            report=lambda *_: None,
            stop=self._stop,
            bounds=Bounds(size),
        )
        with part.open("rb") as file:
            os.fsync(file.fileno())
        target = self._store / "objects" / oid[:2] / oid[2:4] / oid
        target.parent.mkdir(parents=True, exist_ok=True)
        part.replace(target)
        part.with_name(f"{oid}.json").unlink(missing_ok=True)

    def _stop(self) -> None:
        if self._ask_to_stop is not None:
            self._ask_to_stop()
        if self._halted.is_set():
            raise Cancelled("Another Git LFS file failed.")
        if time.monotonic() > self._until:
            raise GitError(
                f"git could not fetch LFS files: it took longer than {LONGEST:g} s.",
                mend="What came is kept: run it again, or bring large data by `data`.",
            )


def _not_had(oid: str, error: DataError) -> GitError:
    return _kind(error)(f"The Git LFS content {oid[:12]} cannot be fetched: {error.message}", mend=_PUBLIC)


def _kind(error: DataError) -> type[GitError]:
    return Unanswered if isinstance(error, DataAway) else GitError
