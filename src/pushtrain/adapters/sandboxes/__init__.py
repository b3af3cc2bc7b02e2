"""The isolation ladder: how well a job is kept away from the machine that it runs on (docs/isolation.md).

`registry` names the levels strongest first. Each class is made with one `Ground`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

registry: Final[dict[str, str]] = {
    "sandbox": "pushtrain.adapters.sandboxes.sandbox:Bubblewrap",
    "none": "pushtrain.adapters.sandboxes.none:Unconfined",
}
"""`Isolation` → `module:Class`."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What a level may know of the machine."""

    folder: Path
    """Where it may keep files of its own; jobs never write there."""
