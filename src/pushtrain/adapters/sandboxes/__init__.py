"""The isolation ladder: how well a job is kept away from the machine that it runs on (docs/isolation.md).

`registry` names the levels in the order in which they are preferred: `sandbox` before `container`, which
protects as well and starts more slowly. Each class is made with one `Ground`.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pushtrain.core.errors import ConfigError
from pushtrain.core.values.isolation import Isolation, JobNetwork
from pushtrain.plumbing.disk.files import replace
from pushtrain.plumbing.isolation import seccomp
from pushtrain.ports import Cage

registry: Final[dict[str, str]] = {
    "sandbox": "pushtrain.adapters.sandboxes.sandbox:Bubblewrap",
    "container": "pushtrain.adapters.sandboxes.container:Container",
    "confined": "pushtrain.adapters.sandboxes.confined:Confined",
    "user": "pushtrain.adapters.sandboxes.user:OwnUser",
    "none": "pushtrain.adapters.sandboxes.none:Unconfined",
}
"""`Isolation` → `module:Class`."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What a level may know of the machine."""

    folder: Path
    """Where it may keep files of its own; jobs never write there."""

    def filter(self, *, alone: bool) -> Path:
        """The filter of system calls, as a file.

        Args:
            alone: Whether a job has IPC and processes for itself alone; else it must not reach others'.

        Raises:
            OSError: It cannot be written.
        """
        content = seccomp.program(alone=alone)
        path = self.folder / f"calls-{hashlib.sha256(content).hexdigest()[:16]}.bpf"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            replace(path, content, durable=False)
        return path


def demand_network(level: Isolation, cage: Cage, *kept: JobNetwork) -> None:
    """Refuse a cage whose network a level cannot keep.

    Raises:
        ConfigError: It can keep only `kept`.
    """
    if cage.network not in kept:
        allowed = " or ".join(f'"{one}"' for one in kept)
        raise ConfigError(
            f"At the level `{level}` a job cannot be held to the network `{cage.network}`.",
            mend=f"The owner may allow `network = {allowed}`.",
        )
