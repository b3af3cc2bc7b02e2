"""What attempts of this machine left in their folders, read beside the shims that may still write there."""

from pushtrain.core.text.redact import NOTHING
from pushtrain.core.values.run import LogChunk, Run
from pushtrain.core.values.states import State
from pushtrain.plumbing.attempts.cleanlog import read_clean
from pushtrain.plumbing.attempts.given import mask_of
from pushtrain.plumbing.attempts.log import log_size
from pushtrain.plumbing.attempts.records import Verdict
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.keys.sealing import sealing_key
from pushtrain.plumbing.programs.proc import alive, boot_id


def log_chunk(state: StateFolder, run: Run, attempt: int, offset: int, limit: int) -> LogChunk:
    """At most `limit` bytes of an attempt's log; a living attempt still adds to it."""
    folder = _folder(state, run, attempt)
    ended = run.state in {State.PUBLISHING, State.DONE} or attempt < run.attempt or not _lives(folder)
    mask = NOTHING
    if folder.given.exists():  # not published yet; after that the file is clean
        mask = mask_of(folder, sealing_key(state.sealing_key))
    return read_clean(folder.log, attempt, offset, limit, ended=ended, mask=mask)


def size_of_log(state: StateFolder, run: Run) -> int:
    """Bytes of the log of its last attempt."""
    return log_size(_folder(state, run, run.attempt).log) if run.attempt else 0


def verdict(state: StateFolder, run: Run) -> Verdict | None:
    """How its last attempt ended, though nobody has noted it yet; None: it has not, or is lost."""
    return _folder(state, run, run.attempt).read_verdict()


def _folder(state: StateFolder, run: Run, number: int) -> RunDir:
    return RunDir.of(state.runs, run.id, number)


def _lives(folder: RunDir) -> bool:
    """Whether the attempt's shim still runs; its lock is left alone, since an executor may be starting."""
    started = folder.read_started()
    if started is None or folder.read_verdict() is not None:
        return False
    return started.boot == boot_id() and alive(started.pid, started.start)
