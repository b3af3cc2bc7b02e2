"""What a job says about being stopped and started again. Read from its table."""

from typing import Final

from pushtrain.core.forms import listed
from pushtrain.core.model import PreemptSignal
from pushtrain.core.reading import Table

SIGNALS: Final = {
    word: signal
    for signal in PreemptSignal
    for word in dict.fromkeys((signal.value, signal.value.removeprefix("SIG")))
}
"""How a signal may be written: with or without `SIG`."""


def preempt_signal(table: Table) -> PreemptSignal:
    """`preempt_signal`."""
    value = table.take("preempt_signal")
    if value is None:
        return PreemptSignal.TERM
    if isinstance(value, str) and value in SIGNALS:
        return SIGNALS[value]
    mend = f"Write one of {listed(list(PreemptSignal))}."
    table.wrong("preempt_signal", value, "is no signal that a job can ask for", mend)
    return PreemptSignal.TERM
