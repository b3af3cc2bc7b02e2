"""Whether a GPU is to blame: what the driver says counts, what a job prints decides about that job alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.runs.gpuhealth import Fault, Trouble, diagnosis
from pushtrain.core.runs.retry import after
from pushtrain.core.values.jobspec import Retry
from pushtrain.core.values.states import Reason
from pushtrain.testing import an_attempt

SAID = [
    ("RuntimeError: CUDA error: uncorrectable ECC error encountered", Fault.TOLD, Reason.GPU),
    ("CUDA_ERROR_ECC_UNCORRECTABLE", Fault.TOLD, Reason.GPU),
    ("nvmlDeviceGetHandle: GPU is lost. Reboot the system", Fault.TOLD, Reason.GPU),
    ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", Fault.BUSY, Reason.GPU),
    ("all CUDA-capable devices are busy or unavailable", Fault.BUSY, Reason.GPU),
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", Fault.MEMORY, Reason.GPU_MEMORY),
    ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate", Fault.MEMORY, Reason.GPU_MEMORY),
    ("no kernel image is available for execution on the device", Fault.UNSUPPORTED, Reason.NO_GPU),
    ("The NVIDIA driver on your system is too old (found version 11040)", Fault.DRIVER, Reason.NO_GPU),
    ("Failed to initialize NVML: Driver/library version mismatch", Fault.DRIVER, Reason.NO_GPU),
]


@pytest.mark.parametrize(("line", "fault", "reason"), SAID)
def test_what_a_command_printed_last_tells_what_was_wrong(line: str, fault: Fault, reason: Reason) -> None:
    found = diagnosis(f"epoch 1\n{line}\nTraceback follows\n")
    assert found is not None
    assert (found.fault, found.reason) == (fault, reason)
    assert found.words.endswith(".")


def test_a_command_that_failed_by_itself_is_no_gpus_fault() -> None:
    assert diagnosis("ValueError: bad shape\njava.lang.OutOfMemoryError: heap\n") is None
    assert diagnosis("", troubles=[Trouble.HELD]) is None, "memory that is held does not make a run fail"


def test_what_the_driver_says_counts_more_than_what_was_printed() -> None:
    found = diagnosis("CUDA out of memory", troubles=[Trouble.FALLEN_OFF])
    assert found is not None
    assert (found.fault, found.reason) == (Fault.CARD, Reason.GPU)
    assert "fallen-off" in found.words


def test_memory_that_others_used_is_not_the_runs_fault() -> None:
    found = diagnosis("CUDA out of memory", crowded=True)
    assert found is not None
    assert (found.fault, found.reason) == (Fault.CROWDED, Reason.GPU)


def test_a_failed_gpu_is_tried_again_like_a_lost_machine_and_too_little_memory_is_not() -> None:
    failed = an_attempt(reason=Reason.GPU, exit_code=1)
    assert after(failed, [], Retry()) is not None
    assert after(failed, [failed, failed], Retry()) is None, "as often as the job allows for lost ones"
    short = an_attempt(reason=Reason.GPU_MEMORY, exit_code=1)
    assert after(short, [], Retry(failed=2)) is None
    assert after(short, [], Retry(failed=2, also=(Reason.GPU_MEMORY,))) is not None


@given(st.text())
def test_whatever_is_printed_never_says_that_the_driver_found_the_card_wrong(text: str) -> None:
    found = diagnosis(f"{text} uncorrectable ECC error {text}")
    assert found is None or found.fault is not Fault.CARD
