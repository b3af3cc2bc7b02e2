"""NVIDIA's cards as the kernel knows them: where each is on the bus, and whether it sleeps. Wakes nobody."""

from pathlib import Path
from typing import Final

from pushtrain.plumbing.programs.proc import glance

PCI: Final = Path("/sys/bus/pci/devices")  # Linux only, like the driver's own power management
_NVIDIA: Final = "0x10de"
_DISPLAYS: Final = ("0x0300", "0x0302")
"""Classes of PCI devices: VGA and 3D controllers."""

Bus = tuple[tuple[int, tuple[str, bool]], ...]
"""Cards by their index: address, and whether it sleeps."""


def on_bus(pci: Path = PCI) -> Bus:
    """NVIDIA's cards by the kernel, in the driver's order, which is the bus's; empty: it tells of none."""
    found = []
    for device in sorted(pci.glob("*")):
        try:
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
            if vendor == _NVIDIA and kind.startswith(_DISPLAYS):
                status = device / "power" / "runtime_status"
                found.append((device.name, status.exists() and status.read_text().strip() == "suspended"))
        except OSError:
            continue
    return tuple(enumerate(found))


def power(pci: Path, bus: str, file: str) -> str:
    """What the kernel says of a card's power; empty where it says nothing."""
    try:
        return glance(f"{pci}/{address(bus)}/power/{file}").decode().strip()
    except OSError:
        return ""


def address(bus: str) -> str:
    """The kernel's name of a bus address of the driver's: a domain of four digits, small letters."""
    domain, _, rest = bus.lower().partition(":")
    return f"{domain[-4:]}:{rest}"
