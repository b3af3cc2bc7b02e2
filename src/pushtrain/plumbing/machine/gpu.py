"""What GPUs this machine has, and what each does at the moment; the only module that asks NVIDIA's library.

A machine without a driver has no GPUs; that is no error. `inventory()` reads once and lets go. A `Sampler`
reads again and again: it keeps the library open, which costs 0.1 ms a look instead of 20, but for cards that
may power down by themselves (laptops). Those are asked of the kernel first, a sleeping one is never woken,
and the library is let go after each look unless runs of ours have them, because an open handle keeps them
awake.

A card that did not answer, slept or was not there at the first look is looked for again every minute, for as
long as the kernel knows one that is awake and of which the driver has not told.

A MIG slice is a GPU of its own with a UUID of its own; what the library tells of the whole card only (power,
heat, errors) is told of each of its slices.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import pynvml

from pushtrain.core.runs.gpuhealth import GpuProcess, GpuSample
from pushtrain.core.values.card import Gpu
from pushtrain.plumbing.machine.pci import PCI, Bus, address, on_bus, power

_log = logging.getLogger(__name__)
T = TypeVar("T")

_NO_ATTACH: Final = 2
"""NVML_INIT_FLAG_NO_ATTACH: initialise without waking a single card."""
_NOBODY: Final = (pynvml.NVML_SUCCESS, pynvml.NVML_ERROR_NOT_FOUND)
"""What the library says where no process had anything computed lately; it raises the first one, too."""
_LATELY: Final = 1.5
"""Seconds for which a process's use of a card counts; the driver looks a few times a second."""
_GONE: Final = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED)
_THROTTLES: Final = (
    (pynvml.nvmlClocksThrottleReasonSwThermalSlowdown, "heat"),
    (pynvml.nvmlClocksThrottleReasonHwThermalSlowdown, "heat"),
    (pynvml.nvmlClocksThrottleReasonSwPowerCap, "power"),
    (pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown, "power-brake"),
)
_ASLEEP: Final = "NVIDIA GPU"
_ANEW: Final = 60.0
"""Seconds after which a card is looked for again that the kernel knows and the driver did not tell of."""


@dataclass(frozen=True, slots=True)
class _Card:
    """How one GPU is found again: its bus, and its MIG slice where it is one."""

    bus: str
    slice: int | None
    uuid: str

    def handle(self) -> Any:
        whole = pynvml.nvmlDeviceGetHandleByPciBusId(self.bus)
        return whole if self.slice is None else pynvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, self.slice)


def inventory(*, wake: bool = True, pci: Path = PCI) -> tuple[Gpu, ...]:
    """The GPUs of this machine in the driver's order, MIG slices in place of their card.

    Args:
        wake: Whether sleeping cards are woken to be read; else they are there without UUID, name and memory.
        pci: Where the kernel tells about power.
    """
    bus = () if wake else on_bus(pci)
    asleep = tuple(Gpu(uuid="", index=at, name=_ASLEEP, memory=0) for at, (_, sleeps) in bus if sleeps)
    if bus and len(asleep) == len(bus):
        return asleep
    with _library() as there:
        if not there:
            return ()
        try:
            driver = pynvml.nvmlSystemGetDriverVersion()
            read = (_gpu(index, part, handle, driver) for index, part, handle in _devices(bus))
            return tuple(sorted((*read, *asleep), key=lambda gpu: (gpu.index, gpu.slice or 0)))
        except pynvml.NVMLError as error:
            _log.warning("The GPUs could not be read, so none are offered: %s.", error)
            return ()


@dataclass(frozen=True, slots=True)
class Slice:
    """Where a MIG slice is: its card's place on the bus, and the instances that it is made of."""

    bus: str
    instance: int
    compute: int


def slice_of(uuid: str) -> Slice | None:
    """The MIG slice with this UUID; None when the driver knows of none."""
    with _library() as there:
        if not there:
            return None
        try:
            for _, number, handle in _devices():
                if number is not None and pynvml.nvmlDeviceGetUUID(handle) == uuid:
                    return Slice(
                        bus=str(pynvml.nvmlDeviceGetPciInfo(_whole(handle)).busId),
                        instance=pynvml.nvmlDeviceGetGpuInstanceId(handle),
                        compute=pynvml.nvmlDeviceGetComputeInstanceId(handle),
                    )
        except pynvml.NVMLError as error:
            _log.warning("The MIG slice %s could not be looked up: %s.", uuid, error)
        return None


class Sampler:
    """Looks at the cards again and again; belongs to one thread. Close it, or a driver's update has to wait.

    Args:
        pci: Where the kernel tells about power.
        clock: Seconds, for the samples.
        wake: Whether cards that sleep when they are first looked at are woken, to be found; else they are
            passed over.
    """

    def __init__(
        self, *, pci: Path = PCI, clock: Callable[[], float] = time.monotonic, wake: bool = True
    ) -> None:
        self._pci = pci
        self._wake = wake
        self._clock = clock
        self._cards: tuple[_Card, ...] | None = None
        self._kept: contextlib.ExitStack | None = None
        self._why = ""
        self._anew = 0.0

    def sample(self, *, held: Collection[str] = ()) -> tuple[GpuSample, ...]:
        """Every GPU as it is now, in the inventory's order; empty without a driver.

        Args:
            held: UUIDs of those that runs of ours have: they are awake anyway, so the library may stay open.
        """
        now = self._clock()
        if self._cards is None:
            self._cards, self._anew = self._found(), now + _ANEW
        elif now >= self._anew:
            self._cards, self._anew = self._more(self._cards), now + _ANEW
        if self._cards is None:  # the next look asks again, or a card would never be watched
            return ()
        awake = [card for card in self._cards if power(self._pci, card.bus, "runtime_status") != "suspended"]
        found = self._look(awake, now, held=held) if awake else {}
        return tuple(
            found.get(card.uuid) or GpuSample(uuid=card.uuid, at=now, asleep=True) for card in self._cards
        )

    def _found(self) -> tuple[_Card, ...] | None:
        """The cards; None where there is no driver now, or it could not tell, which is told once."""
        try:
            found, why = _found(() if self._wake else on_bus(self._pci)), ""
        except pynvml.NVMLError as error:
            found, why = None, str(error)
        if why and why != self._why:
            _log.warning("The GPUs could not be read: %s.", why)
        self._why = why
        return found

    def _more(self, known: tuple[_Card, ...]) -> tuple[_Card, ...]:
        """These cards, and those that are awake and were not told of before; none is woken."""
        there = {address(card.bus) for card in known}
        new = [one for one in on_bus(self._pci) if one[1][0] not in there and not one[1][1]]
        if not new:
            return known
        self.close()  # an open library tells of no card that came later
        found = list(known)
        for one in new:
            with contextlib.suppress(pynvml.NVMLError):  # it is not the driver's, or cannot tell yet
                found += _found((one,), again=True) or ()
        return tuple(sorted(found, key=lambda card: (address(card.bus), card.slice or 0)))

    def close(self) -> None:
        """Let the library go."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _look(self, cards: list[_Card], now: float, *, held: Collection[str]) -> dict[str, GpuSample]:
        if any(card.uuid not in held and power(self._pci, card.bus, "control") == "auto" for card in cards):
            self.close()
            with _library() as there:
                return {card.uuid: _sample(card, now, there=there) for card in cards}
        if self._kept is None:
            with contextlib.ExitStack() as opened:
                if opened.enter_context(_library()):
                    self._kept = opened.pop_all()
        return {card.uuid: _sample(card, now, there=self._kept is not None) for card in cards}


@contextlib.contextmanager
def _library() -> Iterator[bool]:
    """The library, open; False where there is no driver."""
    try:
        pynvml.nvmlInitWithFlags(_NO_ATTACH)
    except pynvml.NVMLError as error:
        _log.debug("no GPUs: %s", error)
        yield False
        return
    try:
        yield True
    finally:
        with contextlib.suppress(pynvml.NVMLError):  # a driver that was taken away meanwhile
            pynvml.nvmlShutdown()


def _devices(bus: Bus = (), *, again: bool = False) -> Iterator[tuple[int, int | None, Any]]:
    """Every card's index and handle; of one that is cut into slices, each slice's.

    Args:
        bus: The machine's cards, where those that sleep are to be passed over; empty: all are asked.
        again: Whether they were asked before: what does not answer is not told once more.
    """
    ask = pynvml.nvmlDeviceGetHandleByPciBusId if bus else pynvml.nvmlDeviceGetHandleByIndex
    cards: Iterable[tuple[int, int | str]] = (
        [(index, f"0000{address.upper()}") for index, (address, sleeps) in bus if not sleeps]
        if bus
        else enumerate(range(pynvml.nvmlDeviceGetCount()))
    )
    for index, name in cards:
        try:
            handle = ask(name)
        except pynvml.NVMLError as error:
            if error.value not in _GONE:
                raise
            level = logging.DEBUG if again else logging.WARNING
            _log.log(level, "GPU %d does not answer, so it is not offered: %s.", index, error)
            continue
        mode = _or(None, pynvml.nvmlDeviceGetMigMode, handle)
        if not mode or not mode[0]:
            yield index, None, handle
            continue
        for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            with contextlib.suppress(pynvml.NVMLError):  # not every place for a slice is taken
                yield index, number, pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)


def _gpu(index: int, part: int | None, handle: Any, driver: str) -> Gpu:
    whole = _whole(handle)
    capability = _or((), pynvml.nvmlDeviceGetCudaComputeCapability, whole)
    return Gpu(
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        index=index,
        name=pynvml.nvmlDeviceGetName(handle),
        memory=pynvml.nvmlDeviceGetMemoryInfo(handle).total,
        driver=driver,
        capability=".".join(map(str, capability)),
        display=bool(_or(0, pynvml.nvmlDeviceGetDisplayActive, whole)),
        slice=part,
    )


def _found(bus: Bus, *, again: bool = False) -> tuple[_Card, ...] | None:
    """The cards that are awake; None where there is no driver. Raises NVMLError where it cannot tell."""
    if bus and all(sleeps for _, (_, sleeps) in bus):
        return ()
    with _library() as there:
        if not there:
            return None
        return tuple(
            _Card(
                bus=str(pynvml.nvmlDeviceGetPciInfo(_whole(handle)).busId),
                slice=number,
                uuid=pynvml.nvmlDeviceGetUUID(handle),
            )
            for _, number, handle in _devices(bus, again=again)
        )


def _whole(handle: Any) -> Any:
    """The card that a slice is cut from; a whole card is itself."""
    return _or(handle, pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, handle)


def _sample(card: _Card, now: float, *, there: bool) -> GpuSample:
    if not there:  # it was, before: the driver has been taken away
        return GpuSample(uuid=card.uuid, at=now, lost=True)
    try:
        handle = card.handle()
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        whole = _whole(handle) if card.slice is not None else handle
        rates = _or(None, pynvml.nvmlDeviceGetUtilizationRates, handle)
        power = _or(None, pynvml.nvmlDeviceGetPowerUsage, whole)
        energy = _or(None, pynvml.nvmlDeviceGetTotalEnergyConsumption, whole)
        reasons = _or(0, pynvml.nvmlDeviceGetCurrentClocksEventReasons, whole)
        remapped = _or((0, 0, 0, 0), pynvml.nvmlDeviceGetRemappedRows, whole)
        retired = _or(0, pynvml.nvmlDeviceGetRetiredPagesPendingStatus, whole)
        return GpuSample(
            uuid=card.uuid,
            at=now,
            memory=memory.total,
            memory_used=memory.used,
            utilization=None if rates is None else rates.gpu,
            temperature=_or(None, pynvml.nvmlDeviceGetTemperature, whole, pynvml.NVML_TEMPERATURE_GPU),
            power=None if power is None else power / 1000,
            energy=None if energy is None else energy / 1000,
            throttled=tuple(dict.fromkeys(word for bit, word in _THROTTLES if reasons & bit)),
            display=bool(_or(0, pynvml.nvmlDeviceGetDisplayActive, whole)),
            memory_errors=_or(
                None,
                pynvml.nvmlDeviceGetTotalEccErrors,
                whole,
                pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                pynvml.NVML_VOLATILE_ECC,
            ),
            retire_pending=bool(retired) or bool(remapped[2]),
            processes=_busy(handle, _processes(handle)),
        )
    except pynvml.NVMLError as error:
        if error.value not in _GONE:
            _log.warning("GPU %s could not be read: %s.", card.uuid, error)
        return GpuSample(uuid=card.uuid, at=now, lost=True)


def _processes(handle: Any) -> tuple[GpuProcess, ...] | None:
    """Who uses it; None where the driver does not tell (WSL2). One that computes and draws is told once."""
    computing = _or(None, pynvml.nvmlDeviceGetComputeRunningProcesses, handle)
    drawing = _or(None, pynvml.nvmlDeviceGetGraphicsRunningProcesses, handle)
    if computing is None and drawing is None:
        return None
    found = {
        one.pid: GpuProcess(pid=one.pid, memory=one.usedGpuMemory, graphics=graphics)
        for graphics, group in ((False, computing or ()), (True, drawing or ()))
        for one in group
    }
    return tuple(found.values())


def _busy(handle: Any, processes: tuple[GpuProcess, ...] | None) -> tuple[GpuProcess, ...] | None:
    """The processes, each with what it had computed lately, where the driver tells."""
    if not processes:
        return processes
    try:
        samples = pynvml.nvmlDeviceGetProcessUtilization(handle, int((time.time() - _LATELY) * 1e6))
    except pynvml.NVMLError as error:
        if error.value in _GONE:
            raise
        if error.value not in _NOBODY:
            return processes
        samples = []
    last = {one.pid: min(one.smUtil, 100) for one in sorted(samples, key=lambda one: one.timeStamp)}
    return tuple(one.model_copy(update={"utilization": last.get(one.pid, 0)}) for one in processes)


def _or(otherwise: T, ask: Callable[..., Any], *given: Any) -> T | Any:
    """What the library answers; `otherwise` where this card or driver does not know that question.

    Raises:
        NVMLError: The card is gone.
    """
    try:
        return ask(*given)
    except pynvml.NVMLError as error:
        if error.value in _GONE:
            raise
        return otherwise
