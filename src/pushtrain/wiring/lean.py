"""The upkeep of a state folder, for whoever is not its executor: a sender alone, a person, the doctor."""

import asyncio
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Final

from pushtrain.adapters.environments.site import Site
from pushtrain.adapters.environments.tool import clean
from pushtrain.core.errors import Cancelled, PushtrainError
from pushtrain.core.settings import Settings
from pushtrain.plumbing.disk.cache import Cache
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.housekeeping.holdings import Holdings
from pushtrain.plumbing.housekeeping.upkeep import DAY, Upkeep, apart, upkeep_of
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.plumbing.sqlite.view import View

_log = logging.getLogger(__name__)

_SETTLE: Final = 30.0
_HOURLY: Final = 3600.0


def upkeep(state: StateFolder, settings: Settings, store: View) -> Upkeep:
    """The upkeep of a folder whose store is open."""
    site = Site(state.tools, built=state.environments, offered=settings.executor.environments)
    holdings = Holdings(
        state,
        store,
        Cache(state.data, watched=True),
        Cache(state.environments),
        shed=partial(clean, site),
        keep=settings.executor.keep_artifacts_days * DAY,
    )
    return upkeep_of(holdings, settings.executor)


async def keep_lean(state: StateFolder, settings: Settings, store: Store) -> None:
    """Do it for a sender that has the folder to itself, until cancelled."""
    found, stopping = upkeep(state, settings, store), threading.Event()

    def unless_stopping() -> None:
        if stopping.is_set():
            raise Cancelled("The sender stops.")

    try:
        await _hourly(found, partial(apart, state, unless_stopping))
    finally:
        stopping.set()


async def _hourly(found: Upkeep, clear: Callable[[], None]) -> None:
    hours = 0
    await asyncio.sleep(_SETTLE)
    while True:
        try:
            if hours % 24 == 0:
                await asyncio.to_thread(found.forget)
                await asyncio.to_thread(found.holdings.store.copy)
            if hours % 24 == 0 or found.low:
                await asyncio.to_thread(clear)
        except (OSError, PushtrainError) as error:
            _log.warning("the state folder could not be cleared: %s", error)
        hours += 1
        await asyncio.sleep(_HOURLY)
