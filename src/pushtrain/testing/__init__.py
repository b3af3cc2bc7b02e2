"""Public fakes and builders for tests, ours and those of people who extend pushtrain.

Tests may import this module; no layer of the house may. Builders give a valid value and take any field to
change, so that a test names only what it is about. `WorkRepository` is real git in a folder, with an
identity of its own and none of the developer's settings.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Final, TypeVar

from pushtrain.core.values.card import Capacity, ExecutorCard, Gpu
from pushtrain.core.values.command import TrainCommand, run_id
from pushtrain.core.values.jobspec import JobSpec
from pushtrain.core.values.push import NO_COMMIT, Push
from pushtrain.core.values.run import Attempt, Run
from pushtrain.demo.work import WorkRepository

if TYPE_CHECKING:
    from pushtrain.core.values.value import Scalar

__all__ = [
    "COMMIT",
    "NOON",
    "PARENT",
    "PUBLIC_KEY",
    "REPOSITORY",
    "SENDER",
    "SENDER_KEY",
    "Clock",
    "WorkRepository",
    "a_capacity",
    "a_card",
    "a_command",
    "a_gpu",
    "a_new_branch",
    "a_push",
    "a_run",
    "a_spec",
    "an_attempt",
    "eventually",
    "wait_until",
]

T = TypeVar("T")

NOON: Final = 1_790_000_000.0
"""When tests happen: a fixed second of September 2026."""

REPOSITORY: Final = "github.com/octo/hello"
COMMIT: Final = "1234567890abcdef1234567890abcdef12345678"
PARENT: Final = "fedcba0987654321fedcba0987654321fedcba09"
SENDER_KEY: Final = "ed25519:A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="
"""A sender's public key; the private one is the bytes 0 to 31."""
SENDER: Final = "SHA256:Vkdap1RjR0wChd9dvyvKtz2mUTWIOem3dIGy6rEHcIw"
"""Its fingerprint."""
PUBLIC_KEY: Final = "ed25519:" + "A" * 43 + "="

_deliveries = count(1)


# --- builders ---------------------------------------------------------------------------------------------


def a_push(**changes: object) -> Push:
    """A push of one commit to `main`, each with a delivery id of its own."""
    return _built(
        Push(
            host="github.com",
            repository="octo/hello",
            repository_id="1296269",
            ref="refs/heads/main",
            before=PARENT,
            after=COMMIT,
            pusher="octocat",
            delivery=f"00000000-0000-4000-8000-{next(_deliveries):012d}",
        ),
        changes,
    )


def a_new_branch(**changes: object) -> Push:
    """The first push of a branch: there was nothing before."""
    return a_push(**{"before": NO_COMMIT, **changes})


def a_spec(**changes: object) -> JobSpec:
    """A job that prints one line."""
    return _built(JobSpec(name="train", command=("echo", "hello")), changes)


def a_command(
    *,
    repository: str = REPOSITORY,
    commit: str = COMMIT,
    ref: str = "refs/heads/main",
    job: JobSpec | None = None,
    request: str = "",
) -> TrainCommand:
    """A command whose run id is the true one for what it says."""
    spec = job or a_spec()
    cell: Mapping[str, Scalar] = spec.cell
    identity = run_id(repository=repository, commit=commit, job=spec.name, cell=cell, request=request)
    return TrainCommand(
        run_id=identity, repository=repository, ref=ref, commit=commit, job=spec, request=request
    )


def a_run(command: TrainCommand | None = None, **changes: object) -> Run:
    """A run as it is when it has just been accepted."""
    of = command or a_command()
    return _built(Run(id=of.run_id, command=of, sender=SENDER, accepted_at=NOON, updated_at=NOON), changes)


def an_attempt(run: Run | None = None, **changes: object) -> Attempt:
    """The first attempt of a run, just claimed."""
    return _built(Attempt(run_id=(run or a_run()).id, number=1, executor="lab-1", claimed_at=NOON), changes)


def a_card(**changes: object) -> ExecutorCard:
    """The card of an executor without GPUs."""
    card = ExecutorCard(
        name="lab-1", public_url="http://127.0.0.1:8421", timestamp=NOON, public_key=PUBLIC_KEY, port=8421
    )
    return _built(card, changes)


def a_gpu(index: int = 0, **changes: object) -> Gpu:
    """A GPU of 24 GiB."""
    gpu = Gpu(uuid=f"GPU-{index:08d}", index=index, name="NVIDIA RTX 4090", memory=24 << 30, driver="580.65")
    return _built(gpu, changes)


def a_capacity(**changes: object) -> Capacity:
    """One free slot, nothing waiting."""
    return _built(Capacity(slots=1, free_slots=1, free_gpus=0, queued=0, running=0), changes)


def _built(value: T, changes: Mapping[str, object]) -> T:
    # Validation and all: a builder that could make an invalid value would make tests that prove nothing.
    model = type(value)
    fields = {name: getattr(value, name) for name in model.model_fields}  # type: ignore[attr-defined]
    return model(**{**fields, **changes})


# --- time -------------------------------------------------------------------------------------------------


class Clock:
    """A clock that stands still until told: pass it where `time.time` is expected."""

    def __init__(self, now: float = NOON) -> None:
        self._now = now
        self._lock = threading.Lock()

    def __call__(self) -> float:
        """What the clock shows."""
        with self._lock:
            return self._now

    def advance(self, seconds: float) -> float:
        """Move on, and show the new time."""
        with self._lock:
            self._now += seconds
            return self._now


def wait_until(
    condition: Callable[[], T | None], timeout: float = 20, *, what: str = "", every: float = 0.01
) -> T:
    """Wait for a condition to hold, and give what it returned.

    Args:
        condition: Called again and again, in this thread, until it returns something true.
        timeout: Seconds after which to give up.
        what: Named in the error, when given.
        every: Seconds between two looks.

    Raises:
        AssertionError: It did not hold in time.
    """
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what or condition}")
        pause.wait(every)


async def eventually(
    condition: Callable[[], T | None], seconds: float = 20, *, what: str = "", every: float = 0.005
) -> T:
    """`wait_until` for coroutines: the event loop goes on while we wait."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what or condition}")
        await asyncio.sleep(every)
