"""How values are told to people in reports, pages and commit messages. Pure."""

from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

from pushtrain.core.values.run import GpuUse, Run
from pushtrain.core.values.states import Outcome, Reason
from pushtrain.executor.results import markdown as md

_MARKS: Final = {
    Outcome.SUCCEEDED: "✅",
    Outcome.FAILED: "❌",
    Outcome.CANCELLED: "🚫",
    Outcome.LOST: "❓",
    Outcome.MOVED: "➡️",
}
_COMMIT_LINKS: Final = {
    "github.com": "https://{key}/commit/{commit}",
    "gitlab.com": "https://{key}/-/commit/{commit}",
    "codeberg.org": "https://{key}/commit/{commit}",
    "bitbucket.org": "https://{key}/commits/{commit}",
}
_BRANCH_LINKS: Final = {
    "github.com": "https://{key}/tree/{branch}",
    "gitlab.com": "https://{key}/-/tree/{branch}",
    "codeberg.org": "https://{key}/src/branch/{branch}",
    "bitbucket.org": "https://{key}/branch/{branch}",
}


def folder(run: Run) -> str:
    """A run's folder below the results: `runs/JOB/YYYY-MM/DD-SHA7-ID`, dated by acceptance (UTC)."""
    day = datetime.fromtimestamp(run.accepted_at, UTC)
    command = run.command
    return f"runs/{command.job.name}/{day:%Y-%m}/{day:%d}-{command.commit[:7]}-{run.short}"


def headline(run: Run) -> str:
    """Mark and outcome in a word or two: `✅ succeeded`, `⏱️ failed (timeout)`."""
    mark = "⏱️" if run.reason is Reason.TIMEOUT else _MARKS[run.outcome or Outcome.LOST]
    return f"{mark} {run.ending or Outcome.LOST}"


def commit_link(key: str, commit: str) -> str:
    """Markdown for a commit: a link where the host's form of link is known."""
    form = _COMMIT_LINKS.get(key.partition("/")[0])
    shown = f"`{commit[:7]}`"
    return md.link(shown, form.format(key=key, commit=commit)) if form else shown


def duration(seconds: float) -> str:
    """A duration for people: `45 ms`, `3.2 s`, `4 min 05 s`, `2 h 07 min`; its spaces do not break."""
    if seconds < 0.9995:  # noqa: PLR2004  below a second
        return f"{seconds * 1000:.0f}\u00a0ms"
    if seconds < 59.95:  # noqa: PLR2004  below a minute
        return f"{seconds:.1f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:  # noqa: PLR2004  below an hour
        return f"{minutes}\u00a0min\u00a0{rest:02d}\u00a0s"
    return f"{minutes // 60}\u00a0h\u00a0{minutes % 60:02d}\u00a0min"


def size(count: float) -> str:
    """Bytes for people, decimal as disks and GitHub count: `1.4 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":  # noqa: PLR2004  a thousand is a thousand
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def moment(time: float) -> str:
    """A time in UTC, to the second."""
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M:%S} UTC"


def branch_link(key: str, ref: str) -> str:
    """Markdown for a ref: a link for a branch where the host's form of link is known."""
    name = ref.removeprefix("refs/heads/")
    form = _BRANCH_LINKS.get(key.partition("/")[0])
    if form and ref.startswith("refs/heads/"):
        return md.link(md.code(name), form.format(key=key, branch=quote(name)))
    return md.code(name.removeprefix("refs/"))


_IDLE_WORTH_TELLING: Final = 600.0
"""Seconds without a break in which a GPU computed nothing, from which on a person may want to know."""


def gpu_words(use: GpuUse) -> str:
    """What an attempt used of its GPUs: `2 h 07 min of GPU, 93 % busy (100 % at most), 1.2 kWh`."""
    parts = [f"{duration(use.seconds)} of GPU"]
    if use.mean_utilization is not None:
        parts.append(f"{use.mean_utilization:.0f}\u00a0% busy ({use.peak_utilization or 0}\u00a0% at most)")
    if use.peak_memory is not None:
        mean = "" if use.mean_memory is None else f" ({size(use.mean_memory)} on average)"
        parts.append(f"{size(use.peak_memory)} of its memory at most{mean}")
    if use.joules is not None:
        parts.append(energy(use.joules) + (" (estimated)" if use.estimated else ""))
    if use.idle >= _IDLE_WORTH_TELLING:
        parts.append(f"idle for {duration(use.idle)} at a time")
    return ", ".join(parts)


def energy(joules: float) -> str:
    """Energy for people: `12.3 Wh`, `1.42 kWh`."""
    hours = joules / 3600
    return f"{hours:.1f}\u00a0Wh" if hours < 999.95 else f"{hours / 1000:.2f}\u00a0kWh"  # noqa: PLR2004
