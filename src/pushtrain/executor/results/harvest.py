"""What a run left: its files, taken out of the job's hands, and its metrics, read once.

`harvest` may be cut short at any line and called again; its record is written last. After it the work folder
is no longer needed.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from pushtrain.core.text.redact import NOTHING, Mask
from pushtrain.core.values.run import Artifact, Run
from pushtrain.core.values.value import Value
from pushtrain.executor.results.censor import Censor, without_secrets
from pushtrain.executor.results.collect import collect
from pushtrain.executor.results.left import links_of
from pushtrain.executor.results.metrics import Metric, candidates, gather, joined
from pushtrain.plumbing.attempts.records import Limited, write_bytes
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.isolation.visits import disarm
from pushtrain.ports import MetricsFormat, Stop

_RECORD: Final = "harvest.json"

_log = logging.getLogger(__name__)


class Harvest(Value):
    """What a run left."""

    version: Literal[1] = 1
    files: tuple[Artifact, ...] = ()
    """Files in `RunDir.artifacts`, `executor` for a place; then what was refused."""
    metrics: tuple[Metric, ...] = ()


def harvest(
    run: Run,
    folder: RunDir,
    formats: Sequence[MetricsFormat],
    *,
    mask: Mask = NOTHING,
    since: float = 0,
    stop: Stop | None = None,
) -> Harvest:
    """Collect an attempt's files and metrics, or tell again what was collected.

    Args:
        run: Whose job names the globs.
        folder: The attempt's.
        formats: Metrics formats, the preferred ones first.
        mask: Hides the job's secrets.
        since: When the attempt started; only later files of the work folder count as metrics.
        stop: Called now and then; what it raises ends the work.

    Raises:
        StorageError: The disk is full or cannot be written.
    """
    record = _record(folder)
    try:
        return Harvest.model_validate_json(record.read_bytes())
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        _log.warning("%s is gathered again: %s", record, error)
    _disarm(folder)
    censor = Censor(mask, folder.withheld) if mask else None
    globs = run.command.job.results
    own = (folder.checkpoint, folder.tmp)
    files = collect(folder.results, folder.tree, globs, folder.artifacts, own=own, censor=censor, stop=stop)
    named = [folder.metrics, *candidates(folder.artifacts, formats)]
    links = links_of(folder)
    metrics = gather(named, formats, root=folder.artifacts, trusted=folder.root, links=links)
    for path in sorted(folder.before.glob("metrics-*.jsonl"), reverse=True):  # it has one curve
        metrics = joined(gather([path], formats, root=folder.before, links=links), metrics)
    if not metrics:
        work = list(candidates(folder.tree, formats, since=since))
        metrics = gather(work, formats, root=folder.tree, trusted=folder.root, links=links)
    found = Harvest(files=files, metrics=without_secrets(metrics, mask))
    write_bytes(record, found.model_dump_json().encode())
    return found


def _disarm(folder: RunDir) -> None:
    """Nothing that a job left, its caches included, runs as somebody when somebody else starts it."""
    orders = folder.read_orders()
    limits = orders.limits if orders is not None else Limited()
    for name in dict.fromkeys((*limits.folders, *limits.growing, str(folder.job), str(folder.checkpoint))):
        disarm(Path(name))


def harvested(folder: RunDir) -> bool:
    """Whether everything that the work folder had to give was taken out of it."""
    return _record(folder).exists()


def _record(folder: RunDir) -> Path:
    return folder.root / _RECORD
