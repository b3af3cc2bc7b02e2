"""`pushtrain check`: is pushtrain.toml valid, and what would a push of this commit start, and why."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from pushtrain.cli.clone import Clone, open_clone
from pushtrain.cli.options import Json
from pushtrain.cli.screen import render
from pushtrain.core.errors import ConfigError, NotFound
from pushtrain.core.jobs.jobfile import FILE, Job, JobFile, parse
from pushtrain.core.policy import Decision, starts
from pushtrain.core.values.command import run_id
from pushtrain.core.values.jobspec import JobSpec
from pushtrain.core.values.push import Push
from pushtrain.core.values.value import CONFIG_BRANCH
from pushtrain.core.wire.place import PATH, secrets_path
from pushtrain.core.wire.secrets import Wanted, covers
from pushtrain.core.wire.secrets import parse as parse_secrets

if TYPE_CHECKING:
    from rich.text import Text

_SCRIPT = re.compile(r"(?:^|\s)python3?(?:\s+-\w+)*\s+([\w./-]+\.py)\b")
_ANYBODY = "localhost/unknown"


@dataclass(frozen=True, slots=True)
class Checked:
    """What was looked at."""

    source: str
    """`pushtrain.toml`, or `pushtrain.toml at 1a2b3c4`."""
    file: JobFile
    commit: str
    """Empty: nothing is committed yet."""
    committed: bool
    """Whether the file that was read is the commit's own."""
    ref: str
    repository: str
    remote: bool
    """Whether there is a remote `origin`; `repository` is empty, too, where no key follows from it."""
    files: frozenset[str]
    """Paths in the commit, or in the work tree."""


def check(
    rev: str = "",
    /,
    *,
    branch: Annotated[str, Parameter(help="As if the commit were pushed to this branch.")] = "",
    json: Json = False,
) -> None:
    """Validate pushtrain.toml and explain what a push of this commit would start, and why.

    Looks at the file in the work tree; with a commit, a branch or a tag, at the file of that commit.

    Args:
        rev: A commit, a branch or a tag.
    """
    clone = open_clone(Path.cwd())
    checked = _read(clone, rev, branch)
    decisions, compared = _decide(clone, checked)
    notes = [note for job in checked.file.jobs for note in _notes(job, checked)]
    notes += _missing_secrets(clone, checked)
    if json:
        render.emit_json(_document(checked, decisions, notes))
        return
    _tell(checked, decisions, notes, compared)


def _read(clone: Clone, rev: str, branch: str) -> Checked:
    commit = clone.commit(rev or "HEAD")
    ref = f"refs/heads/{branch}" if branch else clone.ref(rev or "HEAD")
    stored = clone.show(commit, FILE) if commit else None
    if rev:
        source, text = f"{FILE} at {commit[:7]}", stored
        files = clone.names("ls-tree", "-r", "-z", "--name-only", commit)
    else:
        path = clone.root / FILE
        source, text = FILE, path.read_bytes() if path.is_file() else None
        files = clone.files()
    if text is None:
        raise NotFound(f"There is no {source}.", mend="`pushtrain init` writes one.")
    return Checked(
        source=source,
        file=parse(text, source=source),
        commit=commit,
        committed=stored == text,
        ref=ref,
        repository=clone.key(),
        remote=bool(clone.ask("remote", "get-url", "origin")),
        files=frozenset(files),
    )


def _decide(clone: Clone, checked: Checked) -> tuple[tuple[Decision, ...], str]:
    """What a push would start, and what the commit was compared with."""
    message, changed, compared = "", None, ""
    if checked.commit:
        message = clone.ask("show", "--no-patch", "--format=%B", checked.commit)
        changed, compared = clone.changed(checked.commit, checked.ref)
    host, _, name = (checked.repository or _ANYBODY).partition("/")
    push = Push(
        host=host,
        repository=name,
        ref=checked.ref,
        before="",
        after=checked.commit or "1" * 40,
        delivery="check",
    )
    decisions = starts(
        push, checked.file, message=message, changed=changed, default_branch=clone.default_branch()
    )
    return decisions, compared


def _notes(job: Job, checked: Checked) -> list[str]:
    """What is allowed, but probably not meant: each a sentence with its mend."""
    spec = job.spec
    command = spec.command if isinstance(spec.command, str) else " ".join(spec.command)
    base = "" if spec.workdir == "." else f"{spec.workdir}/"
    scripts = [base + script.removeprefix("./") for script in _SCRIPT.findall(command) if ".." not in script]
    notes = [
        f"{job.name}: `{script}` is not in the repository. Commit it, or mend `command`."
        for script in scripts
        if script not in checked.files
    ]
    if base and not any(path.startswith(base) for path in checked.files):
        notes.append(f"{job.name}: the folder `{spec.workdir}` is not in the repository. Mend `workdir`.")
    file = spec.environment.file
    if (
        file
        and file != "."
        and not any(path == file or path.startswith(f"{file}/") for path in checked.files)
    ):
        notes.append(f"{job.name}: `{file}` is not in the repository. Commit it, or mend `environment`.")
    if ".gitmodules" in checked.files and not spec.submodules:
        notes.append(f"{job.name}: submodules stay empty. Set `submodules = true` if the command needs them.")
    notes += [
        f"{job.name}: {source.url} is not pinned. `pushtrain data add URL` measures its digest."
        for source in spec.data
        if source.url and not source.sha256
    ]
    return notes


def _missing_secrets(clone: Clone, checked: Checked) -> list[str]:
    """Secrets that jobs name and nobody has sealed for this branch, as far as this clone knows."""
    asking = [(job, name) for job in checked.file.jobs for name in job.spec.secrets]
    if not asking:
        return []
    stored = clone.show(f"refs/remotes/origin/{CONFIG_BRANCH}", secrets_path(PATH))
    try:
        entries = parse_secrets((stored or b"").decode("utf-8", "surrogateescape")).entries
    except ConfigError as error:
        return [str(error)]
    notes = []
    for job, name in asking:
        wanted = Wanted(repository=checked.repository, job=job.name, ref=checked.ref)
        if not any(
            entry.name == name
            and entry.repository == checked.repository
            and not entry.removed
            and covers((entry.job,), (entry.branch,), wanted)
            for entry in entries
        ):
            where = checked.ref.removeprefix("refs/heads/").removeprefix("refs/")
            notes.append(
                f"{job.name}: nobody has set the secret {name} for it on {where}, as far as this clone knows "
                f"(`git fetch`). `pushtrain secret set {name}`, unless the executor's owner keeps it."
            )
    return notes


def _identity(checked: Checked, spec: JobSpec) -> str:
    """The run's id, where it is known already."""
    if not (checked.commit and checked.committed and checked.repository):
        return ""
    return run_id(repository=checked.repository, commit=checked.commit, job=spec.name, cell=spec.cell)


def _document(checked: Checked, decisions: Sequence[Decision], notes: Sequence[str]) -> Mapping[str, Any]:
    return {
        "valid": True,
        "source": checked.source,
        "repository": checked.repository,
        "ref": checked.ref,
        "commit": checked.commit,
        "committed": checked.committed,
        "jobs": [
            {
                "job": decision.job,
                "starts": decision.starts,
                "why": decision.why,
                "runs": [
                    {"id": _identity(checked, spec), "title": spec.title, "cell": spec.cell}
                    for spec in decision.specs
                ],
            }
            for decision in decisions
        ],
        "notes": list(notes),
    }


def _tell(checked: Checked, decisions: Sequence[Decision], notes: Sequence[str], compared: str) -> None:
    count = len(decisions)
    render.tell(f"{checked.source} is valid: {count} job{'s' if count != 1 else ''}.")
    what = f"commit {checked.commit[:7]}" if checked.commit else "the first commit"
    place = checked.ref.removeprefix("refs/heads/").removeprefix("refs/")
    against = f" (compared with {compared})" if compared else ""
    render.tell(f"A push of {what} to {place} would start{against}:")
    render.table(("job", "starts", "why"), [_verdict(decision) for decision in decisions])
    specs = [spec for decision in decisions for spec in decision.specs]
    identities = [_identity(checked, spec) for spec in specs]
    if specs and all(identities):
        render.plain("")
        rows = [(identity[:8], _text(spec.title)) for identity, spec in zip(identities, specs, strict=True)]
        render.table(("run", "what"), rows)
    elif specs and not checked.repository:
        why = "no repository key follows from the" if checked.remote else "this clone has no"
        notes = [*notes, f"No run ids: {why} remote `origin`, and they depend on it."]
    elif specs:
        notes = [*notes, f"No run ids yet: commit {FILE} first, they depend on the commit."]
    for note in notes:
        if note == notes[0]:
            render.say()
        render.tell(f"Note: {note}")


def _verdict(decision: Decision) -> "tuple[object, ...]":
    count = len(decision.specs)
    runs = f"{count} run{'s' if count != 1 else ''}"
    shown = _text(runs, "green") if decision.starts else _text("no", "yellow")
    return (decision.job, shown, _text(decision.why))


def _text(text: str, style: str = "") -> "Text":
    """Text that is not read as markup: a reason may hold `[skip ci]`."""
    from rich.text import Text

    return Text(text, style=style)
