"""What `pushtrain doctor` looks at elsewhere: the repositories' remotes, and the executors."""

import os
import time
from collections.abc import Iterator
from typing import Final

from pushtrain.cli.finding import Finding
from pushtrain.core.errors import PushtrainError
from pushtrain.core.settings import Settings
from pushtrain.plumbing.state import StateFolder
from pushtrain.wiring.parts import executor_clients, mirror

_SKEW: Final = 30


def repositories(folder: StateFolder, settings: Settings) -> Iterator[Finding]:
    """Every repository that is served or watched here."""
    if not settings.repositories:
        yield Finding("repositories", "note", "none in settings.toml; `pushtrain up` uses the clone's origin")
    for repository in settings.repositories:
        try:
            heads = mirror(folder, repository, os.environ).ls_remote()
        except PushtrainError as error:
            yield Finding("repository", "wrong", error.message, error.mend)
        else:
            yield Finding("repository", "ok", f"{repository.key}: {len(heads)} refs readable")


def executors(folder: StateFolder, settings: Settings) -> Iterator[Finding]:
    """Every executor that is known here."""
    clients = executor_clients(folder, settings)
    if not clients:
        yield Finding(
            "executor", "note", "none is known here", "`pushtrain up` or `pushtrain executor` starts one."
        )
    for client in clients:
        before = time.time()
        try:
            answer = client.challenge()
        except PushtrainError as error:
            yield Finding("executor", "wrong", error.message, error.mend)
            continue
        free = f"{answer.capacity.free_slots} of {answer.capacity.slots} slots free"
        yield Finding("executor", "ok", f"{answer.card.name} at {answer.card.public_url}: {free}")
        if abs(answer.card.timestamp - before) > _SKEW and answer.card.timestamp > before:
            yield Finding(
                "clock", "wrong", "the executor's clock is ahead of ours", "Check both clocks (NTP)."
            )
