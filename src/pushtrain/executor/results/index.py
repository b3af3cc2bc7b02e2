"""The pages that make the results branch browsable: the last runs at the root, one page a job and month.

Pages are bounded, so that ten thousand runs do not slow a commit down. Their rows are read back from the page
itself, each recognised by the folder it links to: there is no second list that could disagree, and executors
that share a branch need no other state. A page without our mark belongs to a person and is left alone. Pure.
"""

import re
from collections.abc import Sequence
from typing import Final

from pushtrain.core.values.run import Run
from pushtrain.executor.results import markdown as md
from pushtrain.executor.results import plot
from pushtrain.executor.results.metrics import Metric
from pushtrain.executor.results.wording import commit_link, duration, folder, headline, moment

MARK: Final = "<!-- written by pushtrain; rows beyond its tables are kept, other changes are not -->"
LAST: Final = 50
"""Runs on the root page."""
LAST_OF_MONTH: Final = 200
"""Runs on a month's page; the folders stand beside it."""
_MOST_MONTHS: Final = 240
_ROW: Final = re.compile(r"\| [^|\n]* \| \[[^\]\n]*\]\(([^)\s]+)\) \|.*\|")
_MONTH: Final = re.compile(r"- \[[^\]\n]*\]\((runs/[^)\s]+/\d{4}-\d{2})/\)")
_HEADER: Final = ("", "Run", "Commit", "Branch", "Trained", "Metrics", "Accepted")
_ALIGN: Final = "llllrll"


def row(
    run: Run, metrics: Sequence[Metric], subject: str, trained: float | None, *, path: str = "", base: str
) -> str:
    """A run's row.

    Args:
        run: The run.
        metrics: Its metrics.
        subject: Of its commit.
        trained: Seconds.
        path: Its folder below the results; empty: where runs go unless that is taken.
        base: What its link is relative to: empty for the root, the month's folder else.
    """
    path = path or folder(run)
    target = path.removeprefix(f"{base}/") if base else path
    told = [f"{md.text(one.name, most=30)} {plot.show(one.last)}" for one in metrics[:3]]
    command = run.command
    about = f" {md.text(subject, most=60)}" if subject else ""
    cells = (
        headline(run).replace(" ", "\u00a0"),
        md.link(md.text(command.job.title, most=80), f"{target}/"),
        commit_link(command.repository, command.commit) + about,
        md.code(command.ref.removeprefix("refs/heads/").removeprefix("refs/"), most=60),
        duration(trained) if trained is not None else "",
        ", ".join(told),
        moment(run.accepted_at)[:16],
    )
    return f"| {' | '.join(cells)} |"


def root_page(old: bytes | None, rows: Sequence[str], months: Sequence[str]) -> bytes | None:
    """The root page with these rows on top; None when the page there is not ours.

    Args:
        old: The page as it is; None: there is none.
        rows: New rows, newest first.
        months: Folders of the new rows' months: `runs/train/2026-09`.
    """
    text = _ours(old)
    if text is None:
        return None
    kept = _merged(rows, text, LAST)
    known = {found[1] for line in text.split("\n") if (found := _MONTH.fullmatch(line))} | set(months)
    listed = sorted(known, key=lambda path: (path[-7:], path), reverse=True)[:_MOST_MONTHS]
    lines = [f"- {md.link(md.text(path.removeprefix('runs/')), f'{path}/')}" for path in listed]
    page = (
        f"{MARK}\n# Training results\n\n"
        "Each run has a folder with its report, metrics, log and files.\n\n"
        f"## Last runs\n\n{_table(kept)}\n## By job and month\n\n" + "\n".join(lines) + "\n"
    )
    return page.encode()


def month_page(old: bytes | None, rows: Sequence[str], job: str, month: str) -> bytes | None:
    """A month's page with these rows on top; None when the page there is not ours."""
    text = _ours(old)
    if text is None:
        return None
    kept = _merged(rows, text, LAST_OF_MONTH)
    note = ""
    if len(kept) == LAST_OF_MONTH:
        note = f"\nThese are the last {LAST_OF_MONTH}; all runs of the month are folders beside this page.\n"
    return f"{MARK}\n# {md.text(job)} · {month}\n\n{_table(kept)}{note}".encode()


def _ours(old: bytes | None) -> str | None:
    if old is None:
        return ""
    text = old.decode("utf-8", "replace")
    return text if MARK in text[: len(MARK) + 100] else None


def _merged(rows: Sequence[str], old: str, most: int) -> list[str]:
    """New rows, then the old ones that are not of the same runs."""
    merged: dict[str, str] = {}
    for line in (*rows, *old.split("\n")):
        found = _ROW.fullmatch(line)
        if found:
            merged.setdefault(found[1], line)
    return list(merged.values())[:most]


def _table(rows: Sequence[str]) -> str:
    return md.table(_HEADER, (), align=_ALIGN) + "".join(f"{line}\n" for line in rows)
