"""GPUs that have failed and are lent to nobody until the machine was restarted or their owner says so.

The driver forgets: what counts errors starts anew with it, a card that fell off the bus may be found again.
So what the executor has seen is kept in a file, beside the machine's boot. The executor writes it, verbs of
the owner read it and take cards out; a broken file excludes nobody, and what is wrong is found again.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from pushtrain.core.runs.gpuhealth import Trouble
from pushtrain.core.values.card import Gpu
from pushtrain.core.values.value import Value
from pushtrain.plumbing.disk.files import replace
from pushtrain.plumbing.programs.proc import boot_id

_log = logging.getLogger(__name__)


class Exclusion(Value):
    """Why one card is not lent."""

    number: str
    """What people call it: `0`."""
    name: str
    trouble: Trouble
    since: float
    """Seconds since the epoch."""
    boot: str
    """The boot of the machine in which it was seen; after another one the card counts as good."""


_FILE: Final = TypeAdapter(dict[str, Exclusion])


class Excluded:
    """The file. Any thread may call.

    Args:
        path: Where it is.
        boot: Names the machine's boot.
        clock: Seconds since the epoch.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float], boot: Callable[[], str] = boot_id) -> None:
        self._path = path
        self._clock = clock
        self._boot = boot
        self._lock = threading.Lock()

    def all(self) -> Mapping[str, Exclusion]:
        """The cards that are excluded now, by UUID."""
        try:
            found = _FILE.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            _log.warning("%s could not be read, so no GPU counts as failed: %s", self._path, error)
            return {}
        boot = self._boot()
        return {uuid: one for uuid, one in found.items() if one.boot == boot}

    def add(self, gpu: Gpu, trouble: Trouble) -> None:
        """Lend a card to nobody any more; the first reason stays."""
        with self._lock:
            known = dict(self.all())
            if gpu.uuid in known:
                return
            known[gpu.uuid] = Exclusion(
                number=gpu.number, name=gpu.name, trouble=trouble, since=self._clock(), boot=self._boot()
            )
            self._write(known)

    def forgive(self, which: str) -> Exclusion | None:
        """Take a card out, by its UUID or its number; None: it is not excluded.

        Raises:
            OSError: The file could not be written.
        """
        with self._lock:
            known = dict(self.all())
            uuid = next((uuid for uuid, one in known.items() if which in {uuid, one.number}), None)
            if uuid is None:
                return None
            found = known.pop(uuid)
            replace(self._path, _FILE.dump_json(known, indent=1))
            return found

    def _write(self, known: Mapping[str, Exclusion]) -> None:
        try:
            replace(self._path, _FILE.dump_json(dict(known), indent=1))
        except OSError as error:
            _log.warning("that a GPU has failed could not be written down: %s", error)
