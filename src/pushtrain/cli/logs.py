"""`pushtrain logs`: a run's log, whole or live."""

import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pushtrain.cli.find import Found, Published, Stored, find_anywhere
from pushtrain.cli.options import Json, State
from pushtrain.cli.screen import render
from pushtrain.cli.screen.terminal import LogFilter
from pushtrain.core.errors import NotFound, RunFailed, UsageError
from pushtrain.core.values.run import LogChunk, Run
from pushtrain.core.values.states import Outcome
from pushtrain.plumbing.http.client import LogFrame, ViewFrame
from pushtrain.wiring.history import Unsent

_CHUNK = 1024 * 1024
_PAUSE = 0.2
_LOOK = 0.5
"""Seconds between two looks whether a waiting command was sent."""
Read = Callable[[int], LogChunk]
"""What an attempt's log has from an offset on."""


def logs(
    which: str = "",
    /,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="")] = False,
    attempt: int = 0,
    offset: int = 0,
    raw: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
    state: State = None,
) -> None:
    """Print a run's log as the job wrote it, to the byte where output is no terminal.

    A terminal gets colours and progress bars, and nothing else that would steer it.

    With `-f` it goes on until the run ends, survives cuts of the connection, and exits with 12 if the run did
    not succeed. Without it, what is there now is printed. While no executor serves your state folder the log
    is read where the job writes it. Of a run that nobody answers for, what was published is printed.

    Args:
        which: A run's id or its beginning, a commit, a branch or a job; the newest run when left out.
        follow: Stay and print what comes.
        attempt: Which attempt; the latest when left out.
        offset: Byte to begin at.
        raw: Let everything through to a terminal, too; only for a job that you trust.
        json: Print one JSON object: run, offset, next, text.
    """
    if follow and json:
        raise UsageError("`--follow` and `--json` do not go together.", mend="Use `--json` with `--offset`.")
    found = find_anywhere(which, state)
    if follow and isinstance(found, Unsent):
        found = _once_sent(found, state)
    if isinstance(found, Unsent):
        raise NotFound(
            f"Run {found.short} has no log. It is {found.state}: {found.detail.rstrip('.')}.",
            mend=f"`pushtrain show {found.short}` tells more.",
        )
    if attempt and not 0 < attempt <= found.run.attempt:
        raise NotFound(f"Run {found.run.short} has no attempt {attempt}; it has had {found.run.attempt}.")
    number = attempt or found.run.attempt
    with closing(Screen(raw=raw)) as screen:
        _show(found, screen, attempt=attempt, number=number, offset=offset, follow=follow, json=json)


def _show(
    found: Found | Stored | Published,
    screen: "Screen",
    *,
    attempt: int,
    number: int,
    offset: int,
    follow: bool,
    json: bool,
) -> None:
    """Print the log from wherever it is."""
    if isinstance(found, Stored):
        _copy(found.run, number, offset, _of_folder(found, number), screen, stay=follow, as_json=json)
        if follow:
            _verdict_of_folder(found)
    elif isinstance(found, Published):
        _published(found, screen, attempt=attempt, offset=offset, json=json)
        if follow:
            _verdict(found.run)
    elif follow:
        _follow(found, screen, offset=offset)
    else:
        _copy(found.run, number, offset, _of_executor(found, number), screen, stay=False, as_json=json)


def _once_sent(waiting: Unsent, state: Path | None) -> Found | Stored | Published | Unsent:
    """The run, once an executor has taken the command on; the command itself when it waits no more."""
    render.note(f"Run {waiting.short} waits: {waiting.detail}")
    found: Found | Stored | Published | Unsent = waiting
    while isinstance(found, Unsent) and found.state == "waiting":
        time.sleep(_LOOK)  # no executor is there yet that could tell by itself
        found = find_anywhere(waiting.id, state)
    return found


def _of_executor(found: Found, number: int) -> Read:
    return lambda offset: found.client.log(found.run.id, attempt=number, offset=offset, limit=_CHUNK)


def _of_folder(found: Stored, number: int) -> Read:
    return lambda offset: found.history.log_chunk(found.run, number, offset, _CHUNK)


def _copy(
    run: Run, number: int, offset: int, read: Read, screen: "Screen", *, stay: bool, as_json: bool
) -> None:
    """Print an attempt's log from `offset`; with `stay` until nothing more can come."""
    parts, start = [], offset
    while number:
        chunk = read(offset)
        if chunk.elided:
            parts.append(f"\n[… {chunk.offset - offset} bytes left out …]\n".encode())
        parts.append(chunk.data)
        offset = chunk.next_offset
        if not as_json:
            screen.write(b"".join(parts))
            parts.clear()
        if chunk.complete or not (chunk.data or stay):
            break
        if not chunk.data:
            time.sleep(_PAUSE)  # a file that grows is read; its executor does not run
    if as_json:
        _tell(run, number, start, b"".join(parts), offset)


def follow_log(found: Found, *, offset: int = 0) -> None:
    """Print a run's log until the run is final.

    Raises:
        RunFailed: The run ended in another way than success.
    """
    with closing(Screen()) as screen:
        _follow(found, screen, offset=offset)


def _follow(found: Found, screen: "Screen", *, offset: int) -> None:
    last = found.view
    for frame in found.client.follow(found.run.id, offset=offset):
        if isinstance(frame, LogFrame):
            screen.write(frame.data)
        elif isinstance(frame, ViewFrame):
            last = frame.view
    _verdict(last.run)


def _verdict(run: Run) -> None:
    if run.outcome is not Outcome.SUCCEEDED:
        raise RunFailed(
            f"Run {run.short} {run.ending or run.state}: {run.detail or run.reason}".rstrip(".: ") + ".",
            mend=f"`pushtrain show {run.short}` tells more.",
        )


def _verdict_of_folder(found: Stored) -> None:
    """As `_verdict`, for a run of which the executor, which does not run, may not have noted the end."""
    run = found.run
    if run.outcome is not None:
        _verdict(run)
        return
    ended = found.history.verdict(run)
    if ended is None or ended.code != 0:
        how = f"ended with {ended.reason} {ended.code or ''}".rstrip() if ended else "does not run now"
        raise RunFailed(
            f"Run {run.short} {how}; nobody has published that.", mend="Start its executor: it does."
        )


def _published(found: Published, screen: "Screen", *, attempt: int, offset: int, json: bool) -> None:
    """Print a log as it stands on the results branch: of the last attempt, or of one before it."""
    record, run = found.record, found.run
    number = attempt or run.attempt
    last = number == run.attempt
    about = record.raw.get("log", {}) if last else record.raw.get("earlier_logs", {}).get(str(number))
    if about is None:
        raise NotFound(f"Of run {run.short} no log of an attempt {number} was published.")
    name = "log.txt" if last else f"log-{number}.txt"
    missing = about.get("left_out", 0)
    if missing and offset:
        raise NotFound(
            f"Of this log {missing} bytes in the middle were not published, so places in it are not known.",
            mend="Leave `--offset` out.",
        )
    has = name in found.archive.runs.files(record.folder)
    data = found.archive.runs.read(record.folder, name)[offset:] if has else b""
    if json:
        _tell(run, number, offset, data, offset + len(data))
    else:
        screen.write(data)


def _tell(run: Run, attempt: int, offset: int, data: bytes, after: int) -> None:
    text = data.decode("utf-8", "replace")
    render.emit_json({"run": run.id, "attempt": attempt, "offset": offset, "next": after, "text": text})


class Screen:
    """Where a log is printed: a terminal, which it must not steer, or what else there is, to the byte.

    Args:
        raw: Let everything through all the same.
    """

    def __init__(self, *, raw: bool = False) -> None:
        self._filter = LogFilter() if sys.stdout.isatty() and not raw else None

    def write(self, data: bytes) -> None:
        """Print a piece of the log, now."""
        shown = data if self._filter is None else self._filter.feed(data).encode("utf-8", "replace")
        sys.stdout.buffer.write(shown)
        sys.stdout.buffer.flush()

    def close(self) -> None:
        """Print what was held back; colours end."""
        if self._filter is not None:
            sys.stdout.buffer.write(self._filter.end().encode("utf-8", "replace"))
            sys.stdout.buffer.flush()
