"""NVIDIA's management library without a card: the calls of `pynvml` that pushtrain makes, on scripted cards.

    library = FakeNvml([FakeCard(memory=24 * 10**9)])
    monkeypatch.setattr("pushtrain.plumbing.machine.gpu.pynvml", library)
    library.cards[0].processes[4242] = 9 * 10**9      # an owner's program appears

Errors, constants and names are those of the real module; a question that a card does not know raises what the
real one raises. `attached` and `sessions` tell what a sampler woke and whether it let go.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final

import pynvml

__all__ = ["FakeCard", "FakeNvml"]

_NO_ATTACH: Final = 2


@dataclass
class FakeCard:
    """One card; change any field while it is watched. `None` where the card does not know."""

    name: str = "NVIDIA GeForce RTX 4090"
    memory: int = 24 * 1024**3
    uuid: str = ""
    bus: str = ""
    processes: dict[int, int | None] = field(default_factory=dict)
    """Pid → bytes, of those that compute."""
    drawing: dict[int, int | None] = field(default_factory=dict)
    """Pid → bytes, of those that draw."""
    busy: dict[int, int] | None = None
    """Pid → percent; None: the driver does not tell them apart."""
    reserved: int = 0
    """Bytes in use that no process tells of."""
    utilization: int | None = 0
    temperature: int | None = 40
    power: float | None = 30.0
    """Watts."""
    energy: float | None = 0.0
    """Joules since the driver was loaded."""
    throttle: int = 0
    """Bits of `nvmlClocksThrottleReason…`."""
    display: bool = False
    memory_errors: int | None = None
    retire_pending: bool = False
    capability: tuple[int, int] = (8, 9)
    lost: bool = False
    told: bool = True
    """Whether the driver tells of processes; it does not on WSL2."""
    slices: "list[FakeCard]" = field(default_factory=list)
    """MIG slices; with any, the card is in MIG mode."""

    @property
    def used(self) -> int:
        """Bytes in use."""
        return self.reserved + sum(size or 0 for size in {**self.processes, **self.drawing}.values())


@dataclass(frozen=True)
class _Handle:
    card: FakeCard
    whole: FakeCard


class FakeNvml:
    """Stands for the module `pynvml`.

    Args:
        cards: The machine's cards, in the driver's order.
        driver: Its version; empty: there is no driver, and opening the library fails as it does then.
    """

    def __init__(self, cards: Sequence[FakeCard] = (), *, driver: str = "580.95.05") -> None:
        self.cards = list(cards)
        self.driver = driver
        self.sessions = 0
        self._counting = threading.Lock()  # as the real one, it may be opened and closed by many threads
        self.attached: list[str] = []
        """Bus addresses in the order in which cards were woken."""
        for number, card in enumerate(self.cards):
            card.uuid = card.uuid or f"GPU-{number:08x}-0000-0000-0000-000000000000"
            card.bus = card.bus or f"00000000:{number + 1:02X}:00.0"
            for place, part in enumerate(card.slices):
                part.uuid = part.uuid or f"MIG-{number:04x}{place:04x}-0000-0000-0000-000000000000"
                part.bus = card.bus

    def __getattr__(self, name: str) -> Any:
        """Constants, errors and structures are the real module's."""
        if name.startswith(("NVML_", "NVMLError", "nvmlClocks")):
            return getattr(pynvml, name)
        raise AttributeError(name)

    # --- the session --------------------------------------------------------------------------------------

    def nvmlInitWithFlags(self, flags: int) -> None:
        if not self.driver:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
        with self._counting:
            self.sessions += 1
        if not flags & _NO_ATTACH:
            self.attached += [card.bus for card in self.cards]

    def nvmlShutdown(self) -> None:
        with self._counting:
            self.sessions -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return self.driver

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> _Handle:
        return self._attach(self.cards[index])

    def nvmlDeviceGetHandleByPciBusId(self, bus: str) -> _Handle:
        for card in self.cards:
            if card.bus == bus:
                return self._attach(card)
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def _attach(self, card: FakeCard) -> _Handle:
        if self.sessions <= 0:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
        self.attached.append(card.bus)
        self._alive(card)
        return _Handle(card, card)

    @staticmethod
    def _alive(card: FakeCard) -> None:
        if card.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

    def _known(self, handle: _Handle, value: Any) -> Any:
        self._alive(handle.whole)
        if value is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return value

    # --- slices -------------------------------------------------------------------------------------------

    def nvmlDeviceGetMigMode(self, handle: _Handle) -> list[int]:
        self._alive(handle.whole)
        return [1, 1] if handle.card.slices else [0, 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, _handle: _Handle) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: _Handle, index: int) -> _Handle:
        if index >= len(handle.card.slices):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return _Handle(handle.card.slices[index], handle.whole)

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: _Handle) -> _Handle:
        if handle.card is handle.whole:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return _Handle(handle.whole, handle.whole)

    def nvmlDeviceGetGpuInstanceId(self, handle: _Handle) -> int:
        return 7 + handle.whole.slices.index(handle.card)

    def nvmlDeviceGetComputeInstanceId(self, _handle: _Handle) -> int:
        return 0

    # --- what a card tells --------------------------------------------------------------------------------

    def nvmlDeviceGetUUID(self, handle: _Handle) -> str:
        return handle.card.uuid

    def nvmlDeviceGetName(self, handle: _Handle) -> str:
        return handle.card.name

    def nvmlDeviceGetPciInfo(self, handle: _Handle) -> Any:
        return SimpleNamespace(busId=handle.whole.bus)

    def nvmlDeviceGetMemoryInfo(self, handle: _Handle) -> Any:
        self._alive(handle.whole)
        card = handle.card
        return SimpleNamespace(total=card.memory, used=card.used, free=card.memory - card.used)

    def nvmlDeviceGetCudaComputeCapability(self, handle: _Handle) -> tuple[int, int]:
        return handle.card.capability

    def nvmlDeviceGetDisplayActive(self, handle: _Handle) -> int:
        return int(handle.card.display)

    def nvmlDeviceGetUtilizationRates(self, handle: _Handle) -> Any:
        return SimpleNamespace(gpu=self._known(handle, handle.card.utilization), memory=0)

    def nvmlDeviceGetTemperature(self, handle: _Handle, _sensor: int) -> Any:
        return self._known(handle, handle.card.temperature)

    def nvmlDeviceGetPowerUsage(self, handle: _Handle) -> int:
        return int(self._known(handle, handle.card.power) * 1000)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: _Handle) -> int:
        return int(self._known(handle, handle.card.energy) * 1000)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: _Handle) -> int:
        return handle.card.throttle

    def nvmlDeviceGetTotalEccErrors(self, handle: _Handle, _kind: int, _counter: int) -> Any:
        return self._known(handle, handle.card.memory_errors)

    def nvmlDeviceGetRemappedRows(self, handle: _Handle) -> tuple[int, int, int, int]:
        return (0, 0, int(handle.card.retire_pending), 0)

    def nvmlDeviceGetRetiredPagesPendingStatus(self, _handle: _Handle) -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: _Handle) -> list[Any]:
        return self._users(handle, handle.card.processes)

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: _Handle) -> list[Any]:
        return self._users(handle, handle.card.drawing)

    def nvmlDeviceGetProcessUtilization(self, handle: _Handle, since: int) -> list[Any]:
        busy: dict[int, int] = self._known(handle, handle.card.busy)
        if not busy:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return [
            SimpleNamespace(pid=pid, timeStamp=since + 1, smUtil=percent) for pid, percent in busy.items()
        ]

    def _users(self, handle: _Handle, users: dict[int, int | None]) -> list[Any]:
        if not handle.card.told:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in users.items()]
