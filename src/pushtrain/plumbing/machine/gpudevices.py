"""Which devices a job needs to use the GPUs that it was given, and no others.

A whole card is `/dev/nvidiaN`, where N stands in the driver's own `/proc/driver/nvidia/gpus/BUS/information`
beside the card's UUID; every job with a card also needs `nvidiactl` and `nvidia-uvm`. A MIG slice is its
card's node and two capabilities below `/dev/nvidia-caps`, named by numbers that the driver tells below
`/proc/driver/nvidia/capabilities`. Under WSL2 all cards are behind the one `/dev/dxg`: there they cannot be
kept apart. What cannot be found is an error: a job that sees fewer cards than it was given must not start.

Sources: NVIDIA's driver README (chapter on /proc), NVIDIA's MIG user guide (device nodes and capabilities).
"""

import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from pushtrain.core.errors import ConfigError
from pushtrain.core.values.card import Gpu
from pushtrain.plumbing.machine.gpu import Slice, slice_of

_COMMON: Final = ("nvidiactl", "nvidia-uvm")
_EVERYBODY: Final = stat.S_IROTH | stat.S_IWOTH
_GROUP: Final = stat.S_IRGRP | stat.S_IWGRP
_USEFUL: Final = ("nvidia-uvm-tools", "nvidia-modeset")
SYSTEM: Final = ("/sys/bus/pci", "/sys/devices", "/sys/module")
"""What libraries look at to see how cards are connected; readable for jobs with GPUs."""
HIDDEN: Final = "/sys/devices/virtual/dmi"
"""Serial numbers of the machine, which lie within."""


def devices(gpus: Iterable[Gpu], *, root: Path = Path("/")) -> tuple[Path, ...]:
    """The device nodes of these GPUs; none without GPUs.

    Args:
        gpus: Those that the run was given.
        root: Where `/dev` and `/proc` are, for tests.

    Raises:
        ConfigError: A node is not there; the mend is named.
    """
    given = tuple(gpus)
    if not given:
        return ()
    dev = root / "dev"
    if (dev / "dxg").exists():
        return (dev / "dxg",)
    found = [_there(dev / name) for name in _COMMON]
    found += [dev / name for name in _USEFUL if (dev / name).exists()]
    for gpu in given:
        found += _of(gpu, root)
    return tuple(dict.fromkeys(found))


def groups(nodes: Iterable[Path]) -> tuple[int, ...]:
    """The groups that somebody must be in to open these devices, where not everybody may.

    Raises:
        ConfigError: Only root may open one; the mend is named.
    """
    found = []
    for node in nodes:
        held = node.stat()
        if held.st_mode & _EVERYBODY == _EVERYBODY or "nvidia-caps" in node.parts:
            continue
        if held.st_mode & _GROUP != _GROUP or held.st_gid == 0:
            if node.name in _USEFUL:
                continue
            raise ConfigError(
                f"{node} may be opened by root alone, and jobs are not root.",
                mend=f"`sudo chmod 0666 {node}`; the driver's `NVreg_DeviceFileMode=0666` makes it last.",
            )
        found.append(held.st_gid)
    return tuple(dict.fromkeys(found))


def _of(gpu: Gpu, root: Path) -> Iterator[Path]:
    cut = slice_of(gpu.uuid) if gpu.uuid.startswith("MIG-") else None
    minor = _minor(root, bus=cut.bus) if cut is not None else _minor(root, uuid=gpu.uuid)
    if minor is None:
        raise ConfigError(
            f"The device of GPU {gpu.uuid} cannot be found.",
            mend="`nvidia-smi -L` tells whether the driver still knows it; else start the executor anew.",
        )
    yield _there(root / "dev" / f"nvidia{minor}")
    if cut is not None:
        yield from _capabilities(cut, minor, root)


def _capabilities(cut: Slice, minor: int, root: Path) -> Iterator[Path]:
    """The two nodes that make up a slice: its GPU instance, and the compute instance within."""
    instance = root / f"proc/driver/nvidia/capabilities/gpu{minor}/mig/gi{cut.instance}"
    for access in (instance / "access", instance / f"ci{cut.compute}" / "access"):
        number = _field(access, "DeviceFileMinor")
        yield _there(root / "dev" / "nvidia-caps" / f"nvidia-cap{number}")


def _minor(root: Path, *, uuid: str = "", bus: str = "") -> int | None:
    """The number of a card's node, by its UUID or its place on the bus."""
    for card in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        matches = _field(card, "GPU UUID") == uuid if uuid else _same_place(card.parent.name, bus)
        if matches and (found := _field(card, "Device Minor")).isdigit():
            return int(found)
    return None


def _same_place(one: str, other: str) -> bool:
    """Whether two bus addresses are one: the driver writes four or eight digits for the domain."""
    return one.lower().lstrip("0") == other.lower().lstrip("0")


def _field(path: Path, name: str) -> str:
    """A field of one of the driver's files; empty when it is not there."""
    try:
        found = re.search(rf"^{name}:\s*(.*?)\s*$", path.read_text(), re.MULTILINE)
    except OSError:
        return ""
    return found[1] if found else ""


def _there(path: Path) -> Path:
    if path.exists():
        return path
    raise ConfigError(
        f"{path} is not there, so no job can use a GPU.",
        mend="`sudo nvidia-modprobe -u -c 0` makes it; NVIDIA's driver does so when it is used first.",
    )
