"""What GPUs this machine has.

Read through NVIDIA's management library and let go at once: an open handle keeps cards awake. A machine
without a driver has no GPUs; that is no error.
"""

import logging

import pynvml

from pushtrain.core.model import Gpu

_log = logging.getLogger(__name__)


def inventory() -> tuple[Gpu, ...]:
    """The GPUs of this machine in the driver's order; empty without a driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        _log.debug("no GPUs: %s", error)
        return ()
    try:
        driver = pynvml.nvmlSystemGetDriverVersion()
        return tuple(_gpu(index, driver) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError as error:
        _log.warning("The GPUs could not be read, so none are offered: %s.", error)
        return ()
    finally:
        pynvml.nvmlShutdown()


def _gpu(index: int, driver: str) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    return Gpu(
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        index=index,
        name=pynvml.nvmlDeviceGetName(handle),
        memory=pynvml.nvmlDeviceGetMemoryInfo(handle).total,
        driver=driver,
    )
