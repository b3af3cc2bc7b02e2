"""Folders that belong to one repository, or to one of its branches alone, and are kept between its runs.

Whoever is given one also writes down that it was of use, by the folder's time; a collector that took it away
at the very same moment finds that out by this time, and puts it back.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_LONGEST: Final = 200


def own_name(repository: str, apart: str = "") -> str:
    """The name of a folder that belongs to a repository, or to one of its branches alone."""
    name = repository.replace("/", "+")
    if apart:
        name += f"+{hashlib.sha256(apart.encode()).hexdigest()[:16]}"
    return name if len(name) <= _LONGEST else hashlib.sha256(name.encode()).hexdigest()


def own_folder(root: Path, repository: str, *, apart: str = "", parts: Sequence[str] = ()) -> Path:
    """The folder below `root`, made if need be, with these parts in it."""
    folder = root / own_name(repository, apart)
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for part in parts:
                (folder / part).mkdir(exist_ok=True)
            os.utime(folder)
        except FileNotFoundError:
            continue  # it was collected under our hands
        return folder
