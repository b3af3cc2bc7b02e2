"""Write down what a run was and how it went: the files of its folder on the results branch.

Pure: the same story gives the same bytes. `README.md` is for people, `run.json` for programs (everything,
`"version": 1`); `metrics.json`, `plots/*.svg`, `log.txt` and `log-N.txt` (head and tail, what is missing
stated to the byte) and the signed command as it was received stand beside them. What comes from a repository
or a job is shown, never interpreted (see `markdown`).
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pushtrain.core.text.queries import shown_command, shown_run
from pushtrain.core.text.redact import NOTHING, Mask
from pushtrain.core.text.weburl import shown
from pushtrain.core.values.run import Artifact, Attempt, Run, RunEvent
from pushtrain.core.values.states import Outcome
from pushtrain.core.values.value import Value
from pushtrain.executor.results import markdown as md
from pushtrain.executor.results import plot, segments
from pushtrain.executor.results.metrics import Metric
from pushtrain.executor.results.wording import (
    branch_link,
    commit_link,
    duration,
    gpu_words,
    headline,
    moment,
    size,
)
from pushtrain.plumbing.attempts.log import LogEnds

__all__ = ["Machine", "Story", "duration", "log_file", "write"]

VERSION: Final = 1
MOST_CHARTS: Final = 12
_MOST_FILES_SHOWN: Final = 100
_SUMMARY_LIMIT: Final = 64 * 1024
_DUPLICATE: Final = "another executor that may have taken this run on did not answer; it may run there, too"
_TAIL_LINES, _TAIL_WIDTH = 60, 300


class Machine(Value):
    """What a run ran on; no host name, no address."""

    cpu: str = ""
    cpus: int = 0
    memory: int = 0
    """Bytes."""
    gpus: tuple[str, ...] = ()
    """Names of the GPUs that the run had."""
    driver: str = ""
    system: str = ""


@dataclass(frozen=True, slots=True)
class Story:
    """Everything that a report tells."""

    run: Run
    executor: str
    executor_key: str = ""
    """The executor's fingerprint."""
    version: str = ""
    """Pushtrain's."""
    attempts: tuple[Attempt, ...] = ()
    events: tuple[RunEvent, ...] = ()
    machine: Machine = field(default_factory=Machine)
    files: tuple[Artifact, ...] = ()
    metrics: tuple[Metric, ...] = ()
    log: LogEnds = field(default=LogEnds(b"", b"", 0, 0))
    earlier: Mapping[int, LogEnds] = field(default_factory=dict)
    """The logs of attempts before the last one, by number."""
    summary: str = ""
    subject: str = ""
    """The commit message's first line."""
    command: bytes = b""
    """The signed body as received."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Its signature's headers."""
    mask: Mask = NOTHING
    """Hides the job's secrets, should one have got into what is told."""

    @property
    def signed(self) -> bytes:
        """The signed body, if it may be shown: hiding anything in it would break its signature."""
        hides = self.mask.found(self.command) or shown_command(self.run.command) != self.run.command
        return b"" if hides else self.command

    @property
    def attempt(self) -> Attempt | None:
        """The last attempt."""
        return self.attempts[-1] if self.attempts else None


def write(story: Story) -> dict[str, bytes]:
    """The run's files by name, without those that the job left."""
    drawn = plot.charts(story.metrics)[:MOST_CHARTS]
    names = _plot_names([title for title, _ in drawn])
    files = {
        "README.md": _readme(story, dict(zip(names, (title for title, _ in drawn), strict=True))).encode(),
        "run.json": _json(_hidden(_record(story), story.mask)),
    }
    if story.attempts:
        files["log.txt"] = log_file(story.log)
        files |= {segments.log_name(number): log_file(log) for number, log in story.earlier.items()}
    if story.metrics:
        series = [metric.model_dump(mode="json") for metric in story.metrics]
        files["metrics.json"] = _json({"version": VERSION, "series": series}, indent=None)
    for name, (title, metrics) in zip(names, drawn, strict=True):
        files[name] = plot.draw(title, metrics)
    if story.signed:
        files["command.json"] = story.signed
        files["command.headers.json"] = _json(dict(story.headers))
    shown = {name: content for name, content in files.items() if not name.endswith(".json")}
    return files | {name: story.mask.hide(content) for name, content in shown.items()}


def log_file(log: LogEnds) -> bytes:
    """The log as it is published: exact bytes, and where some are missing one line that says how many."""
    if not log.missing:
        return log.head + log.tail
    note = f"\n[pushtrain: {log.missing} of {log.size} bytes left out here]\n\n"
    return log.head + note.encode() + log.tail


# --- run.json ---------------------------------------------------------------------------------------------


def _record(story: Story) -> dict[str, Any]:
    run = shown_run(story.run).model_dump(
        mode="json", exclude={"token", "result_commit", "result_path", "publish_tries"}
    )
    return {
        "version": VERSION,
        "pushtrain": story.version,
        "executor": {"name": story.executor, "key": story.executor_key},
        "machine": story.machine.model_dump(mode="json"),
        "run": run,
        "attempts": [attempt.model_dump(mode="json") for attempt in story.attempts],
        "events": [event.model_dump(mode="json") for event in story.events],
        "metrics": {metric.name: _last_and_best(metric) for metric in story.metrics},
        "files": [file.model_dump(mode="json") for file in story.files],
        "log": {"size": story.log.size, "left_out": story.log.missing},
        "earlier_logs": {
            number: {"size": log.size, "left_out": log.missing} for number, log in story.earlier.items()
        },
    }


def _last_and_best(metric: Metric) -> dict[str, float | int | None]:
    best = metric.best()
    found: dict[str, float | int | None] = {"last": metric.last, "points": metric.points}
    return found | ({"best": best[0], "best_step": best[1]} if best else {})


def _hidden(value: Any, mask: Mask) -> Any:
    """The value with secrets hidden in every text of it; numbers are ours."""
    if not mask:
        return value
    if isinstance(value, str):
        return mask.text(value)
    if isinstance(value, dict):
        return {_hidden(name, mask): _hidden(inner, mask) for name, inner in value.items()}
    return [_hidden(inner, mask) for inner in value] if isinstance(value, list | tuple) else value


def _json(value: object, *, indent: int | None = 2) -> bytes:
    return json.dumps(value, indent=indent, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


# --- README.md --------------------------------------------------------------------------------------------


def _readme(story: Story, charts: Mapping[str, str]) -> str:
    failed = story.run.outcome is not Outcome.SUCCEEDED
    parts = [
        f"# {headline(story.run)} · {md.text(story.run.command.job.title)}\n",
        _verdict(story.run),
        _facts(story),
        *([_log(story, opened=True)] if failed else []),
        _metrics(story.metrics, charts),
        _summary(story),
        segments.told(segments.of(story.run, story.attempts), logs=story.earlier),
        _stages(story),
        _data(story.attempt),
        _files(story),
        *([] if failed else [_log(story, opened=False)]),
        _footer(story),
    ]
    return "\n".join(part for part in parts if part)


def _verdict(run: Run) -> str:
    """What went wrong, in the run's own sentence."""
    return (
        f"> {md.text(run.detail, most=1000)}\n" if run.detail and run.outcome is not Outcome.SUCCEEDED else ""
    )


def _facts(story: Story) -> str:
    run, attempt, machine = story.run, story.attempt, story.machine
    command = run.command
    argv = command.job.command
    shown = argv if isinstance(argv, str) else shlex.join(argv)
    subject = f" {md.text(story.subject, most=100)}" if story.subject else ""
    gpus = md.text(", ".join(machine.gpus))
    rows = {
        "Command": md.code(shown),
        "Branch": branch_link(command.repository, command.ref),
        "Parameters": ", ".join(md.code(f"{name}={value}") for name, value in command.job.cell.items()),
        "Result": _how(run, attempt),
        "Started": moment(attempt.claimed_at if attempt else run.accepted_at),
        "Executor": md.text(story.executor)
        + (f", isolation {md.text(attempt.isolation)}" if attempt else "")
        + (f", network {md.text(attempt.network)}" if attempt and attempt.network else ""),
        "Machine": _machine(machine),
        "GPU": gpus + (f" (driver {md.text(machine.driver)})" if gpus and machine.driver else ""),
        "Used": _used(attempt),
        "GPU use": gpu_words(attempt.gpu) if attempt and attempt.gpu else "",
        "Environment": md.text(attempt.environment) if attempt else "",
        "Secrets": md.text("; ".join(attempt.secrets)) if attempt else "",
        "Attempt": f"{attempt.number}" if attempt and attempt.number > 1 else "",
        "Possible duplicate": _DUPLICATE if run.command.possible_duplicate else "",
    }
    header = ("Commit", commit_link(command.repository, command.commit) + subject)
    return md.table(header, [(f"**{name}**", cell) for name, cell in rows.items() if cell], align="ll")


def _how(run: Run, attempt: Attempt | None) -> str:
    words = headline(run).partition(" ")[2]
    if attempt is None:
        return f"{words} before it started"
    if run.outcome is Outcome.LOST:  # nobody knows when it ended
        return f"{words} during {'training' if attempt.started_at is not None else 'its preparation'}"
    if attempt.started_at is not None and attempt.ended_at is not None:
        words += f" after {duration(attempt.ended_at - attempt.started_at)} of training"
    if attempt.signal is not None:
        return f"{words}, signal {attempt.signal}"
    if attempt.exit_code is not None:
        return f"{words}, exit code {attempt.exit_code}"
    return words if not run.reason or run.reason in words else f"{words} ({run.reason})"


def _machine(machine: Machine) -> str:
    parts = [
        f"{machine.cpus} x {md.text(machine.cpu)}" if machine.cpus and machine.cpu else "",
        f"{size(machine.memory)} memory" if machine.memory else "",
        md.text(machine.system),
    ]
    return ", ".join(part for part in parts if part)


def _used(attempt: Attempt | None) -> str:
    if attempt is None or not (attempt.cpu_seconds or attempt.max_rss):
        return ""
    words = f"{duration(attempt.cpu_seconds)} of CPU, {size(attempt.max_rss)} of memory at most"
    if attempt.disk_read or attempt.disk_written:
        words += f", {size(attempt.disk_read)} read from disk and {size(attempt.disk_written)} written"
    return words


def _stages(story: Story) -> str:
    attempt = story.attempt
    if attempt is None or not attempt.stages:
        return ""
    total = sum(stage.seconds for stage in attempt.stages)
    rows = [
        (
            str(stage.stage),
            duration(stage.seconds),
            f"{100 * stage.seconds / total:.0f} %" if total else "",
            md.text(stage.note),
        )
        for stage in attempt.stages
    ]
    rows.append(("**in all**", f"**{duration(total)}**", "", ""))
    return "## Stages\n\n" + md.table(("Stage", "Time", "Share", ""), rows, align="lrrl")


def _metrics(metrics: Sequence[Metric], charts: Mapping[str, str]) -> str:
    if not metrics:
        return ""
    images = [f'<img src="{name}" alt="{md.attribute(title)}" width="410">' for name, title in charts.items()]
    rows = []
    for metric in metrics[:_MOST_FILES_SHOWN]:
        best = metric.best()
        where = f"{plot.show(best[0])} at step {plot.show(best[1])}" if best else ""
        rows.append((md.code(metric.name), plot.show(metric.last), where, str(metric.points)))
    more = len(metrics) - len(rows)
    note = f"\n{more} more in [metrics.json](metrics.json).\n" if more else ""
    pictures = f"<p>\n{chr(10).join(images)}\n</p>\n\n" if images else ""
    return (
        f"## Metrics\n\n{pictures}"
        + md.table(("Metric", "Last", "Best", "Points"), rows, align="lrlr")
        + note
    )


def _summary(story: Story) -> str:
    if not story.summary.strip():
        return ""
    files = {file.path: f"files/{file.path}" for file in story.files if file.where in {"git", "lfs"}}
    told = md.summary(story.summary, most=_SUMMARY_LIMIT, files=files)
    return f"## Summary\n\n{md.quoted(told)}"


def _data(attempt: Attempt | None) -> str:
    if attempt is None or not attempt.data:
        return ""
    rows = []
    for one in attempt.data:
        source = md.code(shown(one.source.url)) if one.source.url else f"mount {md.code(one.source.mount)}"
        pinned = f"`{one.sha256[:16]}…`" if one.pinned else f"⚠️ not pinned; was `{one.sha256[:16]}…`"
        if not one.sha256:
            pinned = "lent by the owner"
        rows.append((md.code(one.source.path), source, size(one.size), pinned))
    unpinned = any(not one.pinned and one.sha256 for one in attempt.data)
    note = "\n`pushtrain data add URL` writes the digest, so that a change is noticed.\n" if unpinned else ""
    return "## Data\n\n" + md.table(("Path", "From", "Size", "SHA-256"), rows, align="llrl") + note


def _files(story: Story) -> str:
    kept = [file for file in story.files if file.where != "refused"]
    refused = [file for file in story.files if file.where == "refused"]
    if not story.files:
        return ""
    rows = [(_file(file), size(file.size), _where(file, story)) for file in kept[:_MOST_FILES_SHOWN]]
    out = "## Files\n\n" + (md.table(("File", "Size", "Where"), rows, align="lrl") if rows else "")
    if len(kept) > len(rows):
        out += f"\n{len(kept) - len(rows)} more are listed in [run.json](run.json).\n"
    if refused:
        lines = [f"- {md.code(file.path)}: {md.text(file.why)}" for file in refused[:_MOST_FILES_SHOWN]]
        title = f"{len(refused)} not taken"
        out += "\n" + md.details(title, "\n".join(lines))
    return out


def _file(file: Artifact) -> str:
    shown = md.code(file.path)
    if file.where in {"git", "lfs"}:
        shown = md.link(shown, f"files/{file.path}")
    places = f"{file.hidden} place{'s' if file.hidden > 1 else ''}"
    return f"{shown} (a secret hidden at {places})" if file.hidden else shown


def _where(file: Artifact, story: Story) -> str:
    if file.where == "executor":
        until = f" until {moment(file.until)[:10]}" if file.until else ""
        return f"on {md.text(story.executor)}{until}: `pushtrain results fetch {story.run.short}`"
    if file.where == "url":
        return md.code(file.url)
    return {"git": "in Git", "lfs": "in Git LFS"}[file.where]


def _log(story: Story, *, opened: bool) -> str:
    if not story.attempts:
        return ""
    if not story.log.size:
        return "## Log\n\nThe job wrote nothing.\n"
    raw = story.log.tail or story.log.head
    shown = md.last_lines(md.clean_log(raw), lines=_TAIL_LINES, width=_TAIL_WIDTH)
    count = shown.count("\n") + 1
    what = f"Last {count} lines" if count > 1 else "Last line"
    log, rest = story.log, "All of it: [log.txt](log.txt)."
    if log.missing:
        rest = (
            f"Its two ends: [log.txt](log.txt); {log.missing:,} of {log.size:,} bytes were left out between."
        )
    title = f"{what} of {size(story.log.size)}"
    return "## Log\n\n" + md.details(title, md.block(shown, "text"), opened=opened) + f"\n{rest}\n"


def _footer(story: Story) -> str:
    signed = f" · [signed command](command.json) by `{story.run.sender}`" if story.signed else ""
    if story.command and not story.signed:
        signed = " · the signed command is left out: it holds a secret or a signed URL"
    version = f" by pushtrain {md.text(story.version)}" if story.version else ""
    return f"---\n\n<sub>Run `{story.run.id}`{version} · [run.json](run.json){signed}</sub>\n"


def _plot_names(titles: Sequence[str]) -> list[str]:
    names: list[str] = []
    for title in titles:
        plain = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60] or "metric"
        number = 1
        name = f"plots/{plain}.svg"
        while name in names:
            number += 1
            name = f"plots/{plain}-{number}.svg"
        names.append(name)
    return names
