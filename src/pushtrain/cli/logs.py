"""`pushtrain logs`: a run's log, whole or live."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pushtrain.cli import render
from pushtrain.cli.find import Found, Published, Stored, find_anywhere
from pushtrain.cli.options import Json, State
from pushtrain.core.errors import NotFound, RunFailed, UsageError
from pushtrain.core.model import LogChunk, Outcome, Run
from pushtrain.plumbing.client import LogFrame, ViewFrame
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
    json: Json = False,
    state: State = None,
) -> None:
    """Print a run's log exactly as the job wrote it.

    With `-f` it goes on until the run ends, survives cuts of the connection, and exits with 12 if the run did
    not succeed. Without it, what is there now is printed. While no executor serves your state folder the log
    is read where the job writes it. Of a run that nobody answers for, what was published is printed.

    Args:
        which: A run's id or its beginning, a commit, a branch or a job; the newest run when left out.
        follow: Stay and print what comes.
        attempt: Which attempt; the latest when left out.
        offset: Byte to begin at.
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
    if isinstance(found, Stored):
        _copy(found.run, number, offset, _of_folder(found, number), stay=follow, as_json=json)
        if follow:
            _verdict_of_folder(found)
    elif isinstance(found, Published):
        _published(found, attempt=attempt, offset=offset, json=json)
        if follow:
            _verdict(found.run)
    elif follow:
        follow_log(found, offset=offset)
    else:
        _copy(found.run, number, offset, _of_executor(found, number), stay=False, as_json=json)


def _once_sent(waiting: Unsent, state: Path | None) -> Found | Stored | Published | Unsent:
    """The run, once an executor has taken the command on; the command itself when it waits no more."""
    sys.stderr.write(f"Run {waiting.short} waits: {waiting.detail}\n")
    found: Found | Stored | Published | Unsent = waiting
    while isinstance(found, Unsent) and found.state == "waiting":
        time.sleep(_LOOK)
        found = find_anywhere(waiting.id, state)
    return found


def _of_executor(found: Found, number: int) -> Read:
    return lambda offset: found.client.log(found.run.id, attempt=number, offset=offset, limit=_CHUNK)


def _of_folder(found: Stored, number: int) -> Read:
    return lambda offset: found.history.log_chunk(found.run, number, offset, _CHUNK)


def _copy(run: Run, number: int, offset: int, read: Read, *, stay: bool, as_json: bool) -> None:
    """Print an attempt's log from `offset`; with `stay` until nothing more can come."""
    parts, start = [], offset
    while number:
        chunk = read(offset)
        if chunk.elided:
            parts.append(f"\n[… {chunk.offset - offset} bytes left out …]\n".encode())
        parts.append(chunk.data)
        offset = chunk.next_offset
        if not as_json:
            _write(b"".join(parts))
            parts.clear()
        if chunk.complete or not (chunk.data or stay):
            break
        if not chunk.data:
            time.sleep(_PAUSE)
    if as_json:
        _tell(run, number, start, b"".join(parts), offset)


def follow_log(found: Found, *, offset: int = 0) -> None:
    """Print a run's log until the run is final.

    Raises:
        RunFailed: The run ended in another way than success.
    """
    last = found.view
    for frame in found.client.follow(found.run.id, offset=offset):
        if isinstance(frame, LogFrame):
            _write(frame.data)
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


def _published(found: Published, *, attempt: int, offset: int, json: bool) -> None:
    """Print the log as it stands on the results branch, which is that of the last attempt."""
    record, run = found.record, found.run
    if attempt not in {0, run.attempt}:
        raise NotFound(f"Of run {run.short} only the log of attempt {run.attempt} was published.")
    missing = record.raw.get("log", {}).get("left_out", 0)
    if missing and offset:
        raise NotFound(
            f"Of this log {missing} bytes in the middle were not published, so places in it are not known.",
            mend="Leave `--offset` out.",
        )
    has = "log.txt" in found.archive.runs.files(record.folder)
    data = found.archive.runs.read(record.folder, "log.txt")[offset:] if has else b""
    if json:
        _tell(run, run.attempt, offset, data, offset + len(data))
    else:
        _write(data)


def _tell(run: Run, attempt: int, offset: int, data: bytes, after: int) -> None:
    text = data.decode("utf-8", "replace")
    render.emit_json({"run": run.id, "attempt": attempt, "offset": offset, "next": after, "text": text})


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
