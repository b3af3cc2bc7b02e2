"""A person's `--command`, `--data-url` and `--param` put into a job, before its cells are made.

A run with overrides is not what the commit says, so it always gets a request, and with it an id, of its own.
"""

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from pushtrain.core.errors import ConfigError, UsageError
from pushtrain.core.jobs.jobfile import Job, JobFile
from pushtrain.core.jobs.matrix import Cell, Matrix, cells, check_references
from pushtrain.core.jobs.needs import URL
from pushtrain.core.text.forms import Wrong, did_you_mean, inside, listed
from pushtrain.core.text.weburl import shown
from pushtrain.core.values.jobspec import DataSource, JobSpec
from pushtrain.core.values.value import Scalar

_DATA: Final = "data"


@dataclass(frozen=True, slots=True)
class Overrides:
    """What a person wants otherwise than the file says."""

    command: str = ""
    data_url: str = ""
    """`URL`, or `PATH=URL` where the job has several data entries."""
    params: tuple[str, ...] = ()
    """Each `NAME=VALUE`; values are written as in TOML, anything else is text."""

    def __bool__(self) -> bool:
        return bool(self.command or self.data_url or self.params)


def overridden(file: JobFile, names: Sequence[str], wanted: Overrides) -> JobFile:
    """The file with a person's wishes put in.

    Args:
        file: `pushtrain.toml` at the commit.
        names: The jobs that are to start; empty: all that may be started by hand.
        wanted: What is to be otherwise; where it is something, exactly one job must be meant.

    Raises:
        NotFound: There is no job of that name.
        UsageError: A wish does not fit the job.
    """
    if not wanted:
        return file
    meant = list(dict.fromkeys(names)) or [job.name for job in file.jobs if job.on.manual]
    if len(meant) != 1:
        raise UsageError(
            f"`--command`, `--data-url` and `--param` change one job, and {listed(meant)} would start.",
            mend="Name the one with `--job`.",
        )
    chosen = file.job(meant[0])
    changed = _changed(chosen, wanted)
    jobs = tuple(changed if job.name == chosen.name else job for job in file.jobs)
    return file.model_copy(update={"jobs": jobs})


def _changed(job: Job, wanted: Overrides) -> Job:
    try:
        matrix = _matrix(job, dict(_param(text) for text in wanted.params))
        spec = job.spec
        if wanted.command:
            names = matrix.names if matrix else ()
            check_references(wanted.command, names)
            spec = spec.model_copy(update={"command": wanted.command})
        if wanted.data_url:
            spec = spec.model_copy(update={"data": _with_url(spec, wanted.data_url)})
    except Wrong as error:
        raise UsageError(f"{job.name}: what you gave {error.problem}.", mend=error.mend) from error
    return job.model_copy(update={"spec": spec, "matrix": matrix})


def _param(text: str) -> tuple[str, Scalar]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"`--param {text}` is not NAME=VALUE.", mend="Write for example `--param lr=0.1`.")
    return name.strip(), _scalar(value)


def _scalar(text: str) -> Scalar:
    """The value as TOML reads it; what TOML does not read as one scalar is text."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    if isinstance(value, float) and not math.isfinite(value):
        return text
    return value if isinstance(value, bool | int | float | str) else text


def _matrix(job: Job, given: Cell) -> Matrix | None:
    if not given:
        return job.matrix
    known = job.matrix.names if job.matrix else ()
    unknown = [name for name in given if name not in known]
    if job.matrix and unknown:
        mend = did_you_mean(unknown[0], known) or f"Its parameters are {listed(known)}."
        raise UsageError(f"The job `{job.name}` has no parameter `{unknown[0]}`.", mend=mend)
    found: list[Cell] = []
    for cell in cells(job.matrix) if job.matrix else ({},):
        filled = {**cell, **given}
        if filled not in found:
            found.append(filled)
    return Matrix(include=tuple(found), max_parallel=job.matrix.max_parallel if job.matrix else None)


def _with_url(spec: JobSpec, text: str) -> tuple[DataSource, ...]:
    path, equals, url = text.partition("=")
    if not equals or "://" in path:
        path, url = "", text
    if not URL.fullmatch(url):
        raise UsageError(f"`{shown(url)}` is not a data URL.", mend="Use http, https, s3, gs, az or hf.")
    paths = [source.path for source in spec.data]
    if not path and len(paths) > 1:
        raise UsageError(
            f"The job has several data entries: {listed(paths)}.",
            mend=f"Say which one: `--data-url {paths[0]}=URL`.",
        )
    path = inside(path or (paths[0] if paths else _path(url)))
    before = next((source for source in spec.data if source.path == path), None)
    folder = url.endswith("/")
    manifest = before.manifest if before and folder else ""
    if folder and not manifest:
        raise ConfigError(
            f"`{shown(url)}` names a folder, and the job's entry has no `manifest`.",
            mend="Give the URL of one file.",
        )
    unpack = before.unpack if before else False
    source = DataSource(url=url, path=path, manifest=manifest, unpack=unpack and not folder)
    others = tuple(other for other in spec.data if other.path != path)
    return (*others, source)


def _path(url: str) -> str:
    try:
        name = urlsplit(url).path.rpartition("/")[2]
    except ValueError as error:
        raise UsageError(f"`{shown(url)}` is not a data URL.", mend="Check its host.") from error
    return f"{_DATA}/{name.lstrip('.') or 'file'}"
