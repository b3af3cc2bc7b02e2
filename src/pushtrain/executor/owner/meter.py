"""What each attempt uses of its GPUs: every look at the cards adds to it, and its end takes it.

The state lies in the attempt's folder, so it outlives the executor; written now and then, a crash loses what
half a minute told of utilisation and nothing of a card's own energy counter. What all runs used of energy
today is counted here, too, a shared card once.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from pushtrain.core.runs.gpuhealth import GpuSample
from pushtrain.core.runs.usage import Metered, gpu_use, metered
from pushtrain.core.values.run import Attempt, GpuUse
from pushtrain.executor.owner.lending import Holder
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.disk.files import replace
from pushtrain.plumbing.machine.energy import EnergyDay

_log = logging.getLogger(__name__)

_EVERY: Final = 30.0
"""Seconds between two times that a state is written down."""
_STATES: Final = TypeAdapter(dict[str, Metered])
Key = tuple[str, int]
"""A run's id and an attempt's number."""


class Meter:
    """The meters of one executor's attempts. Any thread may ask.

    Args:
        runs: The state folder's runs.
        energy: Where all that is used today is counted.
        clock: Seconds since the epoch.
    """

    def __init__(self, runs: Path, energy: EnergyDay, *, clock: Callable[[], float] = time.time) -> None:
        self._runs = runs
        self._energy = energy
        self._clock = clock
        self._lock = threading.Lock()
        self._states: dict[Key, dict[str, Metered]] = {}
        self._written: dict[Key, float] = {}

    def look(self, samples: Sequence[GpuSample], holders: Sequence[Holder], ours: Collection[int]) -> None:
        """Add what a look at the cards saw.

        Args:
            samples: The cards.
            holders: Who has which of them.
            ours: Pids that belong to our runs.
        """
        now = self._clock()
        cards = {sample.uuid: sample for sample in samples}
        used: dict[str, float] = {}
        with self._lock:
            for holder in holders:
                key = (holder.run_id, holder.attempt)
                if key not in self._states:
                    self._states[key] = self._read(key)
                state = self._states[key]
                for uuid in holder.gpus:
                    if uuid not in cards:
                        continue
                    alone = sum(uuid in each.gpus for each in holders) == 1
                    before = state.get(uuid)
                    state[uuid] = _metered(before, cards[uuid], holder, now, ours if alone else None)
                    grown = state[uuid].joules - (before.joules if before else 0)
                    used[uuid] = max(used.get(uuid, 0.0), grown)
                if state and now - self._written.get(key, 0.0) >= _EVERY:
                    self._write(key)
        self._energy.add(sum(used.values()))

    def idle(self, holder: Holder) -> float:
        """Seconds for which one of its GPUs has computed nothing now."""
        with self._lock:
            states = self._states.get((holder.run_id, holder.attempt), {})
            return max((state.idle_for for state in states.values()), default=0.0)

    def used(self, attempt: Attempt, *, share: float = 1) -> GpuUse | None:
        """What an attempt that has ended used; None for one without GPUs. Asking again gives the same."""
        if not attempt.gpus:
            return None
        key = (attempt.run_id, attempt.number)
        with self._lock:
            if key in self._states:
                self._write(key)
                del self._states[key]
                self._written.pop(key, None)
            states = self._read(key)
        held = (attempt.ended_at or self._clock()) - attempt.claimed_at
        return gpu_use(states, gpus=attempt.gpus, held=held, share=share)

    def kwh(self) -> float:
        """What all runs have used today."""
        return self._energy.kwh()

    def settle(self) -> None:
        """Write everything down as it is."""
        with self._lock:
            for key in self._states:
                self._write(key)
        self._energy.settle()

    def _read(self, key: Key) -> dict[str, Metered]:
        try:
            return _STATES.validate_json(self._path(key).read_bytes())
        except (OSError, ValidationError):
            return {}

    def _write(self, key: Key) -> None:
        self._written[key] = self._clock()
        try:
            replace(self._path(key), _STATES.dump_json(self._states[key]), durable=False)
        except OSError as error:
            _log.debug("what run %s uses could not be written down: %s", key[0][:8], error)

    def _path(self, key: Key) -> Path:
        return RunDir.of(self._runs, *key).usage


def _metered(
    before: Metered | None, sample: GpuSample, holder: Holder, now: float, ours: Collection[int] | None
) -> Metered:
    """The next state: while nothing of it runs yet, its card is not called idle."""
    if holder.shim is None:
        return metered(before, sample.model_copy(update={"utilization": None}), at=now, memory=None)
    return metered(before, sample, at=now, memory=_memory(sample, ours))


def _memory(sample: GpuSample, ours: Collection[int] | None) -> int | None:
    """Bytes of a card that one run has; None: it cannot be told apart."""
    if ours is None:
        return None
    if sample.processes is None:
        return sample.memory_used
    mine: Mapping[int, int | None] = {
        process.pid: process.memory for process in sample.processes if process.pid in ours
    }
    return None if None in mine.values() else sum(memory or 0 for memory in mine.values())
