"""`pushtrain` as a job finds it that has not installed it: the API for jobs, and nothing else.

The executor lays this beside `job.py`, as the `__init__` of a package at the end of the job's `PYTHONPATH`.
What stands there goes before installed packages, so it looks for another `pushtrain` and makes way for it.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _installed() -> ModuleSpec | None:
    """Another package of this name, wherever it comes from."""
    rest = [path for path in sys.path if os.path.abspath(path or os.curdir) != _HERE]
    for finder in sys.meta_path:
        if finder is PathFinder:
            found = PathFinder.find_spec("pushtrain", rest)
        else:
            find = getattr(finder, "find_spec", None)
            found = find("pushtrain", None) if find else None
        if found is not None and found.has_location and found.origin != __file__:
            return found
    return None


_other = _installed()
if _other is not None and _other.loader is not None:
    _module = module_from_spec(_other)
    sys.modules["pushtrain"] = _module
    _other.loader.exec_module(_module)


def __getattr__(name: str) -> Any:
    """Everything of the API for jobs."""
    if name.startswith("__") or name == "job":  # asked by the import system, which looks further
        raise AttributeError(name)
    return getattr(import_module("pushtrain.job"), name)
