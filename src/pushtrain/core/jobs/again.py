"""What a job says about being stopped and started again. Read from its table."""

import re
from typing import Final

from pushtrain.core.text.forms import duration, listed
from pushtrain.core.text.reading import Table
from pushtrain.core.values.jobspec import Concurrency, PreemptSignal, Retry
from pushtrain.core.values.names import store_problem
from pushtrain.core.values.states import CHECKPOINTED, RETRIED, Reason

SIGNALS: Final = {
    word: signal
    for signal in PreemptSignal
    for word in dict.fromkeys((signal.value, signal.value.removeprefix("SIG")))
}
"""How a signal may be written: with or without `SIG`."""
MOST_RETRIES: Final = 100
_LAST: Final = 255


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


def concurrency(table: Table) -> Concurrency:
    """`concurrency`."""
    value = table.take("concurrency")
    if value is None or value in set(Concurrency):
        return Concurrency.QUEUE if value is None else Concurrency(str(value))
    table.wrong("concurrency", value, "is no way to go on", f"Write one of {listed(list(Concurrency))}.")
    return Concurrency.QUEUE


def checkpoint_to(table: Table) -> str:
    """`checkpoint_to`."""
    value = table.take("checkpoint_to")
    if value is None or value == "lfs" or (isinstance(value, str) and not store_problem(value)):
        return "" if value is None else str(value)
    mend = 'Write "lfs", or a URL such as "s3://bucket/prefix" (s3, gs, az).'
    table.wrong("checkpoint_to", value, "is no place for checkpoints", mend)
    return ""


def retry(table: Table) -> Retry:
    """`retry`."""
    below = table.table("retry", "Write `retry = {failed = 1}`, or `[job.NAME.retry]` and keys below it.")
    if below is None:
        return Retry()
    found = Retry(
        lost=int(below.number("lost", default=Retry().lost, most=MOST_RETRIES)),
        failed=int(below.number("failed", most=MOST_RETRIES)),
        exit_codes=_exit_codes(below),
        also=_also(below),
        backoff=below.read("backoff", duration, None) or Retry().backoff,
    )
    below.end({"max": "Did you mean `failed`?", "codes": "Did you mean `exit_codes`?"})
    return found


def _exit_codes(table: Table) -> dict[int, int]:
    mend = "Write each code with how often, as in `exit_codes = {75 = 3}`."
    below = table.table("exit_codes", mend)
    if below is None:
        return {}
    codes = {}
    for key in below.data:
        times = int(below.number(key, most=MOST_RETRIES))
        if key == str(CHECKPOINTED):
            below.wrong(key, None, "always starts the run again", "Leave it out.")
        elif not (re.fullmatch(r"[1-9][0-9]{0,2}", key) and int(key) <= _LAST):
            below.wrong(key, None, "is no exit code of a failure", "Name codes from 1 to 255.")
        else:
            codes[int(key)] = times
    return codes


def _also(table: Table) -> tuple[Reason, ...]:
    known = sorted(RETRIED)
    found = []
    for word in table.texts("also", example="data"):
        if word in set(known):
            found.append(Reason(word))
        else:
            table.wrong("also", word, "is no reason that can be tried again", f"Name of {listed(known)}.")
    return tuple(found)
