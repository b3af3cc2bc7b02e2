"""What the owner's own screen shows of the machine: made of each look, written when it says something new."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from pushtrain.core.owner.verdict import Stance, Verdict
from pushtrain.core.text.forms import clean
from pushtrain.core.values.card import Gpu
from pushtrain.executor.owner.cardwatch import Cards
from pushtrain.executor.owner.lending import Holder
from pushtrain.plumbing.owner.standing import CardStands, Program, Standing, write
from pushtrain.plumbing.programs.proc import glance

_STEP: Final = 10**8
"""Bytes to which a program's memory is rounded, so that not each look is news."""


class OwnerScreen:
    """The file behind `pushtrain executor status`.

    Args:
        path: Where it is.
        executor: The executor's name.
        gpus: The machine's.
        waiting: How many runs wait.
        kwh: What runs have used today.
    """

    def __init__(
        self,
        path: Path,
        *,
        executor: str,
        gpus: Sequence[Gpu],
        waiting: Callable[[], int],
        kwh: Callable[[], float],
    ) -> None:
        self._path = path
        self._executor = executor
        self._gpus = tuple(gpus)
        self._waiting = waiting
        self._kwh = kwh
        self._shown: Standing | None = None

    def show(self, verdict: Verdict, cards: Cards, holders: Sequence[Holder]) -> None:
        """Write down how it stands, if that is new."""
        found = verdict.of()
        standing = Standing(
            executor=self._executor,
            lent=verdict.lent,
            why=tuple(each.words for each in found),
            until=found[0].until if found else None,
            runs=len(holders),
            waiting=self._waiting(),
            cards=tuple(self._card(gpu, verdict, cards, holders) for gpu in self._gpus),
            kwh_today=round(self._kwh(), 1),
        )
        if standing != self._shown:
            self._shown = standing
            write(self._path, standing)

    def _card(self, gpu: Gpu, verdict: Verdict, cards: Cards, holders: Sequence[Holder]) -> CardStands:
        found = verdict.of(gpu.uuid)
        theirs = cards.theirs.get(gpu.uuid, ())
        return CardStands(
            index=gpu.index,
            name=gpu.name,
            lent=verdict.stance(gpu.uuid) is Stance.LENT and gpu.uuid not in cards.emptying,
            why=found[0].words if found else "",
            runs=tuple(holder.title for holder in holders if gpu.uuid in holder.gpus),
            programs=tuple(Program(pid=pid, name=_name(pid), memory=_round(size)) for pid, size in theirs),
        )


def _name(pid: int) -> str:
    try:
        return clean(glance(f"/proc/{pid}/comm").decode(errors="replace").strip())
    except OSError:
        return "?"


def _round(size: int | None) -> int | None:
    return None if size is None else round(size / _STEP) * _STEP
