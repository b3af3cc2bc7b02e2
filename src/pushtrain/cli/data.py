"""`pushtrain data`: measure data sets, pin them in pushtrain.toml, see whether they are still the same."""

import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import tomlkit
from cyclopts import App, Parameter
from rich.markup import escape
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Array

from pushtrain.cli.clone import open_clone
from pushtrain.cli.options import Json, State
from pushtrain.cli.screen import render
from pushtrain.core.errors import ConfigError, DataError, NotFound, UsageError
from pushtrain.core.jobs.jobfile import FILE, JobFile, parse
from pushtrain.core.text.weburl import shown
from pushtrain.core.values.jobspec import DataSource
from pushtrain.core.values.run import Fetched
from pushtrain.plumbing.data.supply import fetch
from pushtrain.plumbing.data.terms import OWN
from pushtrain.plumbing.disk.cache import Cache
from pushtrain.plumbing.disk.files import replace
from pushtrain.plumbing.disk.trees import remove_tree
from pushtrain.ports import Report
from pushtrain.wiring.settings import open_state

app = App(
    name="data", help="Measure and pin data sets, so that a run trains on exactly the bytes that were meant."
)

_ENDINGS = (
    ".tar.gz",
    ".tar.bz2",
    ".tar.xz",
    ".tar.zst",
    ".tgz",
    ".tar",
    ".zip",
    ".gz",
    ".bz2",
    ".xz",
    ".zst",
)

OnlyJob = Annotated[
    str, Parameter(name="--job", help="A job of pushtrain.toml; may be left out if there is one.")
]


@app.command
def add(
    url: str,
    /,
    *,
    path: Annotated[str, Parameter(help="Where it appears in the work folder; else data/NAME.")] = "",
    unpack: Annotated[
        bool, Parameter(negative="", help="Unpack it: zip, tar, or a compressed file.")
    ] = False,
    manifest: Annotated[str, Parameter(help="For a folder: the file in it that lists digests.")] = "",
    job: OnlyJob = "",
    state: State = None,
    json: Json = False,
) -> None:
    """Measure a data set, and write it into pushtrain.toml with its digest.

    Fetches it into the cache of this machine's state folder, so that a run here has it already. An entry
    with the same URL gets the new digest: that is how to accept a file that has changed.

    Args:
        url: http, https, hf, s3, gs or az. A URL that ends in `/` names a folder, with `--manifest`.
    """
    place, text, jobs = _job_file()
    name = _job(jobs, job)
    known = next((one for one in _sources(jobs, name) if one.url == url), None)
    unpack, manifest = (
        unpack or (known is not None and known.unpack),
        manifest or (known.manifest if known else ""),
    )
    path = path or (known.path if known else _default_path(url, unpack=unpack))
    source = DataSource(url=url, path=path, unpack=unpack, manifest=manifest)
    changed = _with_entry(text, name, source.model_copy(update={"sha256": "0" * 64}))
    parse(changed, source=FILE)  # before anything large is fetched
    fetched = _measure(source, Cache(open_state(state).data, watched=True), show=not json)
    pinned = source.model_copy(update={"sha256": fetched.sha256})
    changed = _with_entry(text, name, pinned)
    replace(place, changed.encode(), mode=place.stat().st_mode & 0o777)
    if json:
        render.emit_json({"job": name, "file": str(place), "size": fetched.size, **_told(pinned)})
        return
    verb = "Updated" if known else "Added"
    render.say(
        f"{verb} [bold]{escape(path)}[/] of job {name}: {render.size(fetched.size)}, sha256 {fetched.sha256}."
    )
    render.say(f"Commit {FILE} to use it.")


@app.command
def verify(*, job: OnlyJob = "", json: Json = False) -> None:
    """Fetch all data of pushtrain.toml afresh, and say what is no longer what its digest says.

    Nothing is kept, and nothing cached is believed.
    """
    _, _, jobs = _job_file()
    if job:
        jobs.job(job)
    sources = [one for one in _sources(jobs, job) if one.url]
    checked = list(_checked(sources, show=not json))
    if json:
        render.emit_json(
            [
                {**_told(one.source), "status": one.status, "found": one.found, "detail": one.detail}
                for one in checked
            ]
        )
    elif not checked:
        render.say(f"No job of {FILE} has data by URL.")
    else:
        colours = {"same": "green", "not pinned": "yellow"}
        rows = [
            (
                escape(one.source.path),
                f"[{colours.get(one.status, 'red')}]{one.status}[/]",
                one.found or escape(one.detail),
            )
            for one in checked
        ]
        render.table(("path", "status", "sha256 found"), rows)
    _judge(checked)


# --- measuring --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checked:
    """One data set, looked at again."""

    source: DataSource
    status: str
    """`same`, `differs`, `not pinned` or `failed`."""
    found: str = ""
    detail: str = ""


def _checked(sources: Iterable[DataSource], *, show: bool) -> Iterator[Checked]:
    seen: set[tuple[str, str, str | None]] = set()
    for source in sources:
        identity = (source.url, source.manifest, source.sha256)
        if identity in seen:
            continue
        seen.add(identity)
        folder = Path(tempfile.mkdtemp(prefix="pushtrain-verify-"))
        try:
            plain = source.model_copy(update={"sha256": None, "unpack": False})
            found = _measure(plain, Cache(folder), show=show).sha256
            pinned = "same" if found == source.sha256 else "differs"
            yield Checked(source, pinned if source.sha256 else "not pinned", found)
        except DataError as error:
            yield Checked(source, "failed", detail=str(error))
        finally:
            remove_tree(folder)


def _judge(checked: Sequence[Checked]) -> None:
    """Raise for what is wrong, with the mend that fits: what cannot be fetched cannot be accepted either."""
    differ = [one for one in checked if one.status == "differs"]
    failed = sum(one.status == "failed" for one in checked)
    if differ:
        raise DataError(
            f"{len(differ)} of {len(checked)} data sets are not what {FILE} says"
            + (f", {failed} could not be fetched." if failed else "."),
            mend=f"If the new content is right: `pushtrain data add {shown(differ[0].source.url)}`.",
        )
    if failed:
        raise DataError(
            f"{failed} of {len(checked)} data sets could not be fetched.",
            mend="Mend the address in the file, or try again when the server answers.",
        )


def _measure(source: DataSource, cache: Cache, *, show: bool) -> Fetched:
    with _progress(show=show and sys.stderr.isatty()) as report:
        return fetch(source, cache=cache, mounts={}, report=report, stop=lambda: None, terms=OWN)[1]


@contextmanager
def _progress(*, show: bool) -> Iterator[Report]:
    if not show:
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        bar = shown.add_task("", total=None)
        yield lambda text, done, total: shown.update(
            bar, description=text, completed=done, total=total or None
        )


def _told(source: DataSource) -> dict[str, Any]:
    return source.model_dump(mode="json", include={"url", "sha256", "path", "unpack", "manifest"})


# --- pushtrain.toml ---------------------------------------------------------------------------------------


def _job_file() -> tuple[Path, str, JobFile]:
    place = open_clone(Path.cwd()).root / FILE
    if not place.is_file():
        raise NotFound(f"There is no {FILE}.", mend="`pushtrain init` writes one.")
    content = place.read_bytes()
    return place, content.decode(), parse(content)


def _job(jobs: JobFile, wanted: str) -> str:
    if wanted:
        return jobs.job(wanted).name
    if len(jobs.jobs) == 1:
        return jobs.jobs[0].name
    names = ", ".join(one.name for one in jobs.jobs)
    raise UsageError(f"{FILE} has several jobs: {names}.", mend="Say which: `--job NAME`.")


def _sources(jobs: JobFile, only: str) -> list[DataSource]:
    return [source for one in jobs.jobs if only in {"", one.name} for source in one.spec.data]


def _default_path(url: str, *, unpack: bool) -> str:
    name = PurePosixPath(unquote(urlsplit(url).path)).name or "data"
    if unpack:
        name = next((name.removesuffix(end) for end in _ENDINGS if name.lower().endswith(end)), name)
    return f"data/{name}"


def _with_entry(text: str, job: str, source: DataSource) -> str:
    """The file with this entry, everything else as it was, comments too."""
    try:
        document = tomlkit.parse(text)
        table: Any = document["job"][job]
    except (TOMLKitError, KeyError) as error:
        raise ConfigError(f"{FILE} cannot be edited: {error}.") from error
    entries = table.setdefault("data", tomlkit.array())
    fields: dict[str, str | bool | None] = {"url": source.url, "sha256": source.sha256, "path": source.path}
    if source.unpack:
        fields["unpack"] = True
    if source.manifest:
        fields["manifest"] = source.manifest
    same = next((one for one in entries if one.get("url") == source.url), None)
    if same is not None:
        same.update(fields)
        return tomlkit.dumps(document)
    if isinstance(entries, Array):
        entry = tomlkit.inline_table()
        entry.update(fields)
        _append(entries, entry)
    else:
        entries.append(tomlkit.item(fields))  # the form [[job.NAME.data]]
    return tomlkit.dumps(document)


def _append(entries: Array, entry: Any) -> None:
    """Add a line; a list on one line is broken into several, since a digest fills one."""
    if len(entries) and "\n" not in entries.as_string():
        entries.append(entry)
        entries.multiline(multiline=True)
        return
    ends_on_a_line_of_its_own = entries.as_string().rstrip("]").endswith("\n")
    entries.add_line(entry, indent="    ", add_comma=not len(entries))
    if not ends_on_a_line_of_its_own:
        entries.add_line(indent="")
