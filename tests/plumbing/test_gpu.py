from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from pushtrain.core.model import Gpu
from pushtrain.plumbing import gpu


class Library:
    """A stand-in for NVIDIA's library, which needs a card; the calls are those of the real module."""

    NVMLError = pynvml.NVMLError

    def __init__(self, cards: int, *, broken: bool = False) -> None:
        self.cards = cards
        self.broken = broken
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802  NVIDIA's names
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.10"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self.cards

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if self.broken:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return f"Card {handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(total=8_000 + handle)


def test_the_real_library_answers_with_or_without_a_driver() -> None:
    found = gpu.inventory()
    assert all(one.uuid.startswith("GPU-") and one.memory > 0 for one in found)


def test_a_machine_without_a_driver_has_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", refuse)
    assert gpu.inventory() == ()


def test_every_card_is_told_and_the_library_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(2)
    monkeypatch.setattr(gpu, "pynvml", library)
    assert gpu.inventory() == (
        Gpu(uuid="GPU-0", index=0, name="Card 0", memory=8_000, driver="580.10"),
        Gpu(uuid="GPU-1", index=1, name="Card 1", memory=8_001, driver="580.10"),
    )
    assert library.open == 0


def test_a_lost_card_offers_none_and_lets_go(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(1, broken=True)
    monkeypatch.setattr(gpu, "pynvml", library)
    assert gpu.inventory() == ()
    assert library.open == 0
