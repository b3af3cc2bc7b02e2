"""`pushtrain.toml`: the jobs of a commit, read strictly.

`parse` turns the file's text into values or raises one ConfigError that names every mistake with its line,
key, value and mend; nothing unknown is passed over. `expand` makes one JobSpec of each matrix cell.
docs/pushtrain-toml.md is the reference for people, docs/pushtrain.schema.json the one for editors.
"""

import re
from collections.abc import Mapping
from typing import Final

from pydantic import ValidationError

from pushtrain.core.errors import ConfigError, NotFound
from pushtrain.core.jobs import again, needs, triggers
from pushtrain.core.jobs import matrix as matrices
from pushtrain.core.jobs.matrix import Matrix
from pushtrain.core.text import toml
from pushtrain.core.text.forms import (
    Wrong,
    did_you_mean,
    duration,
    inside,
    kind,
    listed,
    scalar_problem,
    text_problem,
    written,
)
from pushtrain.core.text.reading import Notes, Table
from pushtrain.core.values import secretname
from pushtrain.core.values.jobspec import MAX_SECRETS, MOST_PRIORITY, JobSpec, ResultsTarget
from pushtrain.core.values.names import folder_problem, repository_problem, store_problem, variable_problem
from pushtrain.core.values.value import RESULTS_BRANCH, Value, not_for_results

FILE: Final = "pushtrain.toml"
MAX_BYTES: Final = 256 * 1024
MAX_JOBS: Final = 100

JOB_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

_EXAMPLE: Final = 'Write one, for example `[job.train]` with `command = "python train.py"` below it.'


class Job(Value):
    """One `[job.NAME]`: a template whose matrix values are not put in yet."""

    name: str
    spec: JobSpec
    on: triggers.Triggers = triggers.Triggers()
    matrix: Matrix | None = None


class JobFile(Value):
    """A whole `pushtrain.toml`."""

    jobs: tuple[Job, ...]
    results: ResultsTarget = ResultsTarget()

    def job(self, name: str) -> Job:
        """The job of this name.

        Raises:
            NotFound: There is none; the mend names those there are.
        """
        for job in self.jobs:
            if job.name == name:
                return job
        names = [job.name for job in self.jobs]
        mend = did_you_mean(name, names) or f"{FILE} has {listed(names)}."
        raise NotFound(f"There is no job `{name}` at this commit.", mend=mend)


def parse(text: str | bytes, *, source: str = FILE) -> JobFile:
    """Read a `pushtrain.toml`.

    Args:
        text: The file's content.
        source: What messages call the file.

    Raises:
        ConfigError: Something is wrong; one line a mistake, each with file, line, key, value and mend.
    """
    text = _decoded(text, source)
    notes = Notes(source, text)
    root = Table(notes, (), _loaded(text, source))
    target = _results(root)
    jobs = _jobs(root, target)
    stray = {
        key: f"A job's table is called `[job.{key}]`."
        for key, value in root.data.items()
        if isinstance(value, dict) and "command" in value
    }
    root.end({"command": "Put it below a header such as `[job.train]`.", **stray})
    if not jobs and not notes.mistakes:
        notes.add((), None, "no job is defined", _EXAMPLE)
    notes.settle()
    return JobFile(jobs=tuple(jobs), results=target)


def expand(job: Job) -> tuple[JobSpec, ...]:
    """The job's runs: one spec a matrix cell, its values put in; one spec where there is no matrix."""
    if job.matrix is None:
        return (job.spec,)
    return tuple(_filled(job.spec, cell, job.matrix.max_parallel) for cell in matrices.cells(job.matrix))


def _filled(spec: JobSpec, cell: matrices.Cell, max_parallel: int | None) -> JobSpec:
    command = spec.command
    return spec.model_copy(
        update={
            "command": matrices.fill(command, cell)
            if isinstance(command, str)
            else tuple(matrices.fill(part, cell) for part in command),
            "env": {name: matrices.fill(value, cell) for name, value in spec.env.items()},
            "cell": cell,
            "max_parallel": max_parallel,
        }
    )


def _decoded(text: str | bytes, source: str) -> str:
    if len(text) > MAX_BYTES:
        raise ConfigError(
            f"{source} has {len(text)} bytes; at most {MAX_BYTES} are read.",
            mend="Move long scripts into files of their own and call them.",
        )
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{source}:{line}: the file is not UTF-8.", mend="Save it as UTF-8.") from error


def _loaded(text: str, source: str) -> dict[str, object]:
    try:
        return toml.loads(text)
    except RecursionError as error:
        raise ConfigError(
            f"{source} is nested too deeply.", mend="Three levels are enough for any job."
        ) from error
    except ValueError as error:
        why, _, place = str(error).rpartition(" (at ")
        at = re.fullmatch(r"line (\d+), column (\d+)\)", place)
        where = f"{source}:{at[1]}:{at[2]}" if at else f"{source}:{len(text.splitlines())}" if why else source
        why = why or str(error)
        raise ConfigError(
            f"{where}: this is not TOML: {why[:1].lower()}{why[1:]}.",
            mend="Text stands in quotes, lists in [brackets]; https://toml.io shows the format on one page.",
        ) from error


def _jobs(root: Table, target: ResultsTarget) -> list[Job]:
    below = root.table("job", _EXAMPLE)
    if below is None:
        return []
    if len(below.data) > MAX_JOBS:
        root.wrong("job", None, f"holds {len(below.data)} jobs; at most {MAX_JOBS} are read", "Use a matrix.")
        return []
    jobs = []
    for name in below.data:
        table = below.table(name, f'A job is a table: `[job.{name}]`, then `command = "…"`.')
        if not JOB_NAME.fullmatch(name):
            below.wrong(name, None, "is not a job's name", "Use letters, digits, `-` and `_`, at most 64.")
        elif table is not None and (job := _job(name, table, target)):
            jobs.append(job)
    return jobs


def _job(name: str, table: Table, target: ResultsTarget) -> Job | None:
    before = table.notes.count
    command = _command(table)
    fields = {
        "name": name,
        "command": command,
        "workdir": table.read("workdir", lambda value: inside(value, root=True), "."),
        "setup": table.texts("setup", example="make data"),
        "data": needs.data(table),
        "environment": needs.environment(table),
        "env": _env(table),
        "secrets": _secrets(table),
        "network": needs.network(table),
        "resources": (resources := needs.resources(table)),
        "launcher": needs.launcher(table, resources),
        "priority": int(table.number("priority", least=-MOST_PRIORITY, most=MOST_PRIORITY)),
        "timeout": table.read("timeout", duration, None),
        "preempt_signal": again.preempt_signal(table),
        "retry": again.retry(table),
        "checkpoint_to": again.checkpoint_to(table),
        "concurrency": again.concurrency(table),
        "results": _globs(table),
        "results_to": target,
        "min_isolation": needs.isolation(table),
        "submodules": table.flag("submodules", default=False),
        "lfs": table.flag("lfs", default=True),
    }
    on = triggers.read(table)
    below = table.table("matrix", "Write `[job.NAME.matrix]` and below it axes such as `lr = [0.1, 0.01]`.")
    matrix = matrices.read(below) if below is not None else None
    table.end(_ADVICE)
    if table.notes.count == before:
        _check_matrix(table, matrix)
    if table.notes.count > before:
        return None
    try:
        return Job(name=name, spec=JobSpec.model_validate(fields), on=on, matrix=matrix)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        table.wrong(path, None, f"is not valid: {first['msg']}", "docs/pushtrain-toml.md shows each key.")
        return None


_ADVICE: Final = {
    "run": "Did you mean `command`?",
    "script": "Did you mean `command`?",
    "image": "pushtrain runs no container images; see `environment`.",
    "needs": "Jobs do not wait for each other; put the steps into one `command`.",
    "strategy": "The matrix stands in `[job.NAME.matrix]`, with `max_parallel` beside its axes.",
    "branches": 'It belongs below `on.push`: `on = {push = {branches = ["main"]}}`.',
    "paths": 'It belongs below `on.push`: `on = {push = {paths = ["src/**"]}}`.',
    "gpu": "Did you mean `gpus`?",
    "secret": "Did you mean `secrets`?",
    "python": 'It belongs below `environment`: `environment = {uv = ".", python = "3.12"}`.',
    "requirements": 'It belongs below `environment`: `environment = {requirements = "requirements.txt"}`.',
    "artifacts": "What a run leaves is `results`; where large files go is `artifacts` below `[results]`.",
}


def _command(table: Table) -> str | tuple[str, ...]:
    value = table.take("command")
    mend = 'Write `command = "python train.py"`, or a list of arguments: `["python", "train.py"]`.'
    if value is None:
        table.notes.add(table.path, None, "has no `command`", mend)
    elif isinstance(value, list):
        problem = next((text_problem(part) for part in value if text_problem(part)), "")
        if value and not problem:
            return tuple(value)
        problem = f"holds an argument that {problem}" if value else "is empty"
        table.wrong("command", value, problem, mend)
    elif problem := text_problem(value):
        table.wrong("command", value, problem, mend)
    else:
        return str(value)
    return "true"


def _env(table: Table) -> dict[str, str]:
    below = table.table("env", 'Write `env = {EPOCHS = "5"}`.')
    if below is None:
        return {}
    env = {}
    for name, value in below.data.items():
        if problem := variable_problem(name):
            below.wrong(name, None, problem, "Use letters, digits and `_`, no digit and no PUSHTRAIN_ first.")
        elif problem := scalar_problem(value):
            below.wrong(name, None, problem, f'Write `{name} = "…"`.')
        else:
            env[name] = written(value)  # type: ignore[arg-type]
    return env


def _secrets(table: Table) -> tuple[str, ...]:
    names = table.texts("secrets", example="WANDB_API_KEY")
    env = table.data.get("env")
    if len(names) > MAX_SECRETS:
        table.wrong("secrets", None, f"names {len(names)} secrets; at most {MAX_SECRETS}", "Name fewer.")
    for name in names:
        if why := secretname.problem(name):
            mend = "Name the variable that your code reads, such as `WANDB_API_KEY`; never a value."
            shown = name if secretname.is_name(name) else None  # it may be the secret itself
            table.wrong("secrets", shown, why if shown else f"holds an entry that {why}", mend)
        elif isinstance(env, dict) and name in env:
            table.wrong("secrets", name, "stands in `env`, too", "Leave it out of `env`, which is in Git.")
    return names


def _globs(table: Table) -> tuple[str, ...]:
    globs = []
    for text in table.texts("results", example="outputs/**"):
        try:
            globs.append(inside(text, root=True))
        except Wrong as wrong:
            table.wrong("results", text, wrong.problem, wrong.mend)
    return tuple("**" if glob == "." else glob for glob in globs)


def _results(root: Table) -> ResultsTarget:
    table = root.table(
        "results", 'Write `[results]` and below it for example `branch = "pushtrain/results"`.'
    )
    if table is None:
        return ResultsTarget()
    target = ResultsTarget(
        branch=table.read("branch", _branch, RESULTS_BRANCH),
        repository=table.read("repository", _repository, ""),
        path=table.read("path", _folder, ""),
        artifacts=table.read("artifacts", _artifacts, ""),
    )
    table.end()
    if target.branch == "same" and target.repository:
        mend = "Name a branch of that repository."
        table.wrong("branch", "same", "is the pushed branch, which another repository does not have", mend)
    return target


def _branch(value: object) -> str:
    problem = not_for_results(value) if isinstance(value, str) else f"is {kind(value)}, not text"
    if problem:
        raise Wrong(problem, 'Write it as in `branch = "pushtrain/results"`, or "same".')
    return str(value)


def _repository(value: object) -> str:
    problem = repository_problem(value) if isinstance(value, str) else f"is {kind(value)}, not text"
    if problem:
        raise Wrong(problem, "Write host and path without scheme or `.git`: `github.com/octo/results`.")
    return str(value)


def _folder(value: object) -> str:
    path = inside(value)
    if problem := folder_problem(path):
        raise Wrong(problem, 'Write a plain folder, as in `path = "reports"`.')
    return path


def _artifacts(value: object) -> str:
    if value != "lfs" and not (isinstance(value, str) and not store_problem(value)):
        raise Wrong(
            "is no place for large files", 'Write "lfs", or a URL such as "s3://bucket/prefix" (s3, gs, az).'
        )
    return str(value)


def _check_matrix(table: Table, matrix: Matrix | None) -> None:
    names = matrix.names if matrix else ()
    if matrix:
        try:
            matrices.cells(matrix)
        except Wrong as wrong:
            table.wrong("matrix", None, wrong.problem, wrong.mend)
    for path, text in _texts(table.data):
        if table.notes.full:
            break
        if path[0] in ("command", "env"):
            try:
                matrices.check_references(text, names)
            except Wrong as wrong:
                table.notes.add((*table.path, *path), None, wrong.problem, wrong.mend)
        elif matrices.references(text):
            mend = "Matrix values go into `command` and `env` only; let one of them pass it on."
            table.notes.add((*table.path, *path), text, "asks for a matrix value", mend)


def _texts(value: object, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], str]]:
    if isinstance(value, str):
        return [(path, value)]
    if isinstance(value, Mapping):
        return [found for key, item in value.items() for found in _texts(item, (*path, key))]
    if isinstance(value, list):
        return [found for item in value for found in _texts(item, path)]
    return []
