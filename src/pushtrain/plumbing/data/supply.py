"""A job's data: fetched by URL, verified before it can be seen, cached by digest, attached in place.

`fetch()` gives the path of one source in the cache, `attach()` shows it in a work tree. An entry of the cache
is named by the digest of what it holds, so the same bytes by another URL, for another job or commit, are not
fetched again. Two runs that want the same at once fetch it once; a download that was cut off or killed goes
on from where it was.

What a URL without `sha256` held last time is remembered with its ETag, and asked for again with a condition:
only a server's "not modified" makes it count as cached.

Bytes that came by a signed URL or by credentials are their repository's own: another repository that knows no
more than their digest does not get them out of the cache.
"""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import urlsplit

from pushtrain.core.errors import DataError, StorageError
from pushtrain.core.text.queries import without_query
from pushtrain.core.text.weburl import shown
from pushtrain.core.values.jobspec import DataSource
from pushtrain.core.values.run import Fetched
from pushtrain.plumbing.data.doors import Doors
from pushtrain.plumbing.data.download import Bounds, Got, Opener, Version, download
from pushtrain.plumbing.data.manifest import FolderFetch, below, parse
from pushtrain.plumbing.data.terms import Terms
from pushtrain.plumbing.data.unpack import unpack
from pushtrain.plumbing.disk.cache import Cache
from pushtrain.plumbing.disk.files import replace as write_whole
from pushtrain.ports import Report, Stop

_WORKERS: Final = 8
_FILE: Final = "file"
_TREE: Final = "tree"
_ABOUT: Final = "about.json"


def fetch(
    source: DataSource,
    *,
    cache: Cache,
    mounts: Mapping[str, str],
    report: Report,
    stop: Stop,
    terms: Terms,
    repository: str = "",
    holder: Path | None = None,
    meter: Callable[[Opener], Opener] = lambda opener: opener,
    environ: Mapping[str, str] = os.environ,
) -> tuple[Path, Fetched]:
    """Where one source's data stands on this machine, and what it is.

    Args:
        source: What the job asks for.
        cache: Where data is kept.
        mounts: The folders that the owner lends, by name.
        report: Told of progress.
        stop: Called often.
        terms: Whom it may ask, whose credentials it may use, how much may come.
        repository: Whose job asks: what not everybody may fetch is found in the cache by it alone.
        holder: While this path exists, the data is not evicted.
        meter: Put around whatever brings bytes in, to count and to stop them.
        environ: The executor's environment, for HF_TOKEN and HF_ENDPOINT.

    Raises:
        DataError: It cannot be had, or is not what its digest says.
        StorageError: The cache cannot be written.
    """
    if source.mount:
        return _mounted(source, mounts)
    apart = hashlib.sha256(repository.encode()).hexdigest()[:16] if is_private(source.url, terms) else ""
    doors = Doors(terms, environ, workers=_WORKERS)
    work = _Work(cache, report, stop, holder, doors, meter, terms, f"{apart}-" if apart else "")
    try:
        if source.url.endswith("/") or source.manifest:
            return work.folder(source)
        return work.archive(source) if source.unpack else work.file(source)
    except OSError as error:
        raise StorageError(
            f"The data of {shown(source.url)} cannot be kept in {cache.root}: {error}.",
            mend="Free some space, or check the state folder's permissions.",
        ) from error
    finally:
        work.doors.close()


def attach(path: Path, tree: Path, source: DataSource) -> Path:
    """Show data at `source.path` in a work tree, by a symlink; the link's path.

    Folders above it are made. A link among them is refused, since it could lead out of the tree, and so is
    whatever the repository has at that place.

    Raises:
        DataError: The place is taken or is outside the tree.
    """
    parts = PurePosixPath(source.path).parts
    if not parts or source.path.startswith("/") or ".." in parts:
        raise DataError(
            f"The data path {source.path!r} is not inside the work folder.",
            mend="Give a relative path such as `data/train.csv`.",
        )
    with contextlib.ExitStack() as opened:
        folder = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
        opened.callback(os.close, folder)
        for number, name in enumerate(parts[:-1]):
            folder = _step(folder, name, "/".join(parts[: number + 1]), source.path)
            opened.callback(os.close, folder)
        _make_link(path.absolute(), folder, parts[-1], source.path)
    return tree.joinpath(*parts)


# --- the kinds of source ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Work:
    """Fetching for one source."""

    cache: Cache
    report: Report
    stop: Stop
    holder: Path | None
    doors: Doors
    meter: Callable[[Opener], Opener]
    terms: Terms
    space: str
    """What every key of the cache begins with; empty: what everybody may have."""

    def file(self, source: DataSource) -> tuple[Path, Fetched]:
        """A single file."""
        if source.sha256 is None:
            got, cached = self._unpinned(source.url)
        else:
            got, cached = self._pinned(source.url, source.sha256)
        path = self.cache.root / (self.space + got.sha256) / _FILE
        return path, _fetched(source, got, cached=cached)

    def archive(self, source: DataSource) -> tuple[Path, Fetched]:
        """An archive, unpacked."""
        if source.sha256 is not None:
            found = self.cache.get(self._unpacked(source.sha256), holder=self.holder)
            if found is not None:
                return _content(found), _fetched(source, _about(found, source.sha256), cached=True)
        packed, fetched = self.file(source)

        def make(into: Path) -> None:
            limits = self.terms.limits
            unpack(
                packed,
                into,
                title=shown(source.url),
                report=self.report,
                stop=self.stop,
                limits=limits,
                spend=self.terms.unpacking,
            )
            (into / _ABOUT).write_text(json.dumps({"size": fetched.size}))

        key = self._unpacked(fetched.sha256)
        entry, cached = self.cache.build(key, make, holder=self.holder, stop=self.stop)
        self.cache.go_first(self.space + fetched.sha256)
        return _content(entry), fetched.model_copy(update={"cached": cached and fetched.cached})

    def folder(self, source: DataSource) -> tuple[Path, Fetched]:
        """A folder, by its manifest."""
        if not source.manifest or not source.url.endswith("/") or "?" in source.url:
            raise DataError(
                f"{shown(source.url)} names a folder, and a folder comes by a manifest of digests.",
                mend="Add `manifest`, a file below it that `sha256sum` wrote, and end the URL in `/`.",
            )
        where = DataSource(url=below(source.url, source.manifest), sha256=source.sha256, path=source.path)
        listing, fetched = self.file(where)
        files = parse(listing, shown(where.url), self.terms.limits.files)
        key = f"{self.space}folder-{fetched.sha256}"

        def make(into: Path) -> None:
            folder = FolderFetch(source.url, files, self._into)
            size = folder.run(self.cache.scratch(key), into / _TREE, report=self.report, stop=self.stop)
            (into / _ABOUT).write_text(json.dumps({"size": size}))

        entry, cached = self.cache.build(key, make, holder=self.holder, stop=self.stop)
        got = replace(_about(entry, fetched.sha256), version=Version(fetched.etag))
        return entry / _TREE, _fetched(source, got, cached=cached)

    def _pinned(self, url: str, sha256: str) -> tuple[Got, bool]:
        key = self.space + sha256

        def make(into: Path) -> None:
            part = self.cache.scratch(key) / "part"
            self._into(url, part, sha256, self.report, self.stop)
            part.rename(into / _FILE)

        entry, cached = self.cache.build(key, make, holder=self.holder, stop=self.stop)
        return Got(sha256, (entry / _FILE).stat().st_size, Version()), cached

    def _unpinned(self, url: str) -> tuple[Got, bool]:
        name = f"{self.space}url-{hashlib.sha256(url.encode()).hexdigest()}"
        note = self.cache.root / ".urls" / name
        with self.cache.lock(name, stop=self.stop):
            last = _read_note(note)
            if last is not None and self.cache.get(self.space + last.sha256, holder=self.holder) is None:
                last = None
            part = self.cache.scratch(name) / "part"
            known = last.version if last is not None else None
            got = self._into(url, part, None, self.report, self.stop, known)
            if got is not None:
                fresh = partial(_place, part)
                self.cache.build(self.space + got.sha256, fresh, holder=self.holder, stop=self.stop)
                _write_note(note, got)
            self.cache.clear_scratch(name)
        found = got or last
        if found is None:
            raise DataError(f"{shown(url)} sent nothing.", mend="Run it again.")
        return found, got is None

    def _into(  # noqa: PLR0917  a download in short
        self,
        url: str,
        part: Path,
        sha256: str | None,
        report: Report,
        stop: Stop,
        known: Version | None = None,
    ) -> Got | None:
        return download(
            self.meter(self.doors.opener(url)),
            part,
            title=shown(url),
            sha256=sha256,
            report=report,
            stop=stop,
            known=known,
            bounds=Bounds(self.terms.limits.size, self.terms.arriving),
        )

    def _unpacked(self, sha256: str) -> str:
        return f"{self.space}unpacked2-{sha256}"  # the number changes when unpacking does


def is_private(url: str, terms: Terms) -> bool:
    """Whether not everybody may fetch what this URL names: it is signed, or asked for with credentials."""
    return "?" in url or (urlsplit(url).scheme not in {"http", "https"} and terms.lends(url))


def _place(part: Path, into: Path) -> None:
    part.rename(into / _FILE)


def _mounted(source: DataSource, mounts: Mapping[str, str]) -> tuple[Path, Fetched]:
    folder = mounts.get(source.mount)
    if folder is None:
        lent = ", ".join(sorted(mounts)) or "none"
        raise DataError(
            f"This executor lends no folder named {source.mount!r}; it lends: {lent}.",
            mend="Ask its owner to add it to `mounts`, or use another executor.",
        )
    path = Path(folder).expanduser()
    if not path.exists():
        raise DataError(
            f"The folder that this executor lends as {source.mount!r} is not there.",
            mend="Ask its owner to look at `mounts` in settings.toml.",
        )
    return path, Fetched(source=source, sha256="", size=0, pinned=False, cached=True)


def _fetched(source: DataSource, got: Got, *, cached: bool) -> Fetched:
    return Fetched(
        source=without_query(source),
        sha256=got.sha256,
        size=got.size,
        etag=got.version.etag,
        pinned=source.sha256 is not None,
        cached=cached,
    )


def _content(entry: Path) -> Path:
    tree = entry / _TREE
    return tree if tree.is_dir() else entry / _FILE


def _about(entry: Path, sha256: str) -> Got:
    return Got(sha256, int(json.loads((entry / _ABOUT).read_bytes())["size"]), Version())


# --- what a URL held last time ----------------------------------------------------------------------------


def _read_note(note: Path) -> Got | None:
    try:
        found = json.loads(note.read_bytes())
        version = Version(str(found["etag"]), str(found["modified"]))
        return Got(str(found["sha256"]), int(found["size"]), version)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # an absent or torn note only costs a download


def _write_note(note: Path, got: Got) -> None:
    note.parent.mkdir(exist_ok=True)
    about = {"etag": got.version.etag, "modified": got.version.modified}
    write_whole(note, json.dumps({"sha256": got.sha256, "size": got.size, **about}).encode())


def forget_notes(cache: Cache) -> None:
    """Let go of what URLs held last time where that has left the cache."""
    for note in (cache.root / ".urls").glob("*"):
        last, space = _read_note(note), note.name.partition("url-")[0]
        if last is None or not cache.has(space + last.sha256):
            note.unlink(missing_ok=True)


# --- in the work tree -------------------------------------------------------------------------------------


def _step(folder: int, name: str, so_far: str, path: str) -> int:
    """Open the folder `name` below `folder`, made if need be."""
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=folder)
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        raise DataError(
            f"The data cannot appear at {path!r}: the repository has a file or a link at {so_far!r}.",
            mend="Choose another `path`.",
        ) from error


def _make_link(target: Path, folder: int, name: str, path: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(name, dir_fd=folder)  # an empty folder holds nothing of the repository
    try:
        os.symlink(target, name, dir_fd=folder)
    except FileExistsError as error:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode) and os.readlink(name, dir_fd=folder) == str(target):
            return  # an earlier, interrupted try made it
        raise DataError(
            f"The data cannot appear at {path!r}: the repository has something there.",
            mend="Choose another `path`, or remove it from the repository.",
        ) from error
