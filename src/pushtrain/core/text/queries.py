"""Queries of data URLs: used to fetch, and shown to nobody, since they often are signatures.

A command holds them, because an executor cannot fetch without them. Whatever else tells of a command (an
answer, a listing, a report, a record of an attempt) has `?*` in their place.
"""

import re
from typing import Final
from urllib.parse import parse_qsl

from pushtrain.core.text.redact import LEAST
from pushtrain.core.text.weburl import shown
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.jobspec import DataSource
from pushtrain.core.values.run import Run, RunView

HIDDEN: Final = "?*"
"""What stands for a query."""

_TELLING: Final = re.compile(r"sig|token|key|secret|password|credential|auth", re.IGNORECASE)
_LONG: Final = 16


def without_query(source: DataSource) -> DataSource:
    """The source as it may be shown."""
    if "?" not in source.url:
        return source
    return source.model_copy(update={"url": shown(source.url) + HIDDEN})


def shown_command(command: TrainCommand) -> TrainCommand:
    """The command as it may be shown; it cannot be run like that."""
    if not any("?" in source.url for source in command.job.data):
        return command
    data = tuple(map(without_query, command.job.data))
    return command.model_copy(update={"job": command.job.model_copy(update={"data": data})})


def shown_run(run: Run) -> Run:
    """The run as it may be shown."""
    return run.model_copy(update={"command": shown_command(run.command)})


def shown_view(view: RunView) -> RunView:
    """The view as it may be shown."""
    return view.model_copy(update={"run": shown_run(view.run)})


def has_hidden(command: TrainCommand) -> bool:
    """Whether it was shown to us without a query that it had."""
    return any(source.url.endswith(HIDDEN) for source in command.job.data)


def values(command: TrainCommand) -> dict[str, str]:
    """What of a command's queries must not show in a job's output, by a name: each whole, each signature."""
    found: dict[str, str] = {}
    for source in command.job.data:
        query = source.url.partition("?")[2].partition("#")[0]
        parts = [query, *(value for name, value in parse_qsl(query) if _is_telling(name, value))]
        for number, part in enumerate(parts):
            if len(part) >= LEAST:
                found[f"query of {source.path}" + (f", {number}" if number else "")] = part
    return found


def _is_telling(name: str, value: str) -> bool:
    return bool(_TELLING.search(name)) and len(value) >= _LONG
