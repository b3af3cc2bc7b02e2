"""File formats that training leaves its metrics in; each fits `ports.MetricsFormat` and needs no library."""

from typing import Final

FORMATS: Final = {
    "jsonl": "pushtrain.adapters.metrics.jsonl:JsonLines",
    "csv": "pushtrain.adapters.metrics.csv:Csv",
    "tensorboard": "pushtrain.adapters.metrics.tensorboard:TensorBoard",
}
"""Name → where it stands; `wiring` imports them when used."""

STEP_NAMES: Final = ("step", "global_step", "_step", "iteration", "iter", "epoch", "batch")
"""What the axis of a table of metrics is called; the first that is there counts."""

LARGEST: Final = 256 * 1024 * 1024
"""Bytes read of one file; a longer one is read to there."""
