"""`pushtrain gpus`: what each GPU does now, who has it, and whether it is lent."""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from pushtrain.cli.connect import Nobody, ask_all, askable, everyone
from pushtrain.cli.options import Json
from pushtrain.cli.options import State as Folder
from pushtrain.cli.screen import render
from pushtrain.cli.screen.terminal import clean
from pushtrain.core.errors import NotFound, PushtrainError, Unreachable, UsageError
from pushtrain.core.runs.gpustate import GpuRun, GpuState, MachineGpus, state_of
from pushtrain.core.values.states import State
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.machine.excluded import Excluded
from pushtrain.wiring.history import open_history
from pushtrain.wiring.parts import client_maker, executor_addresses, running_card
from pushtrain.wiring.settings import load_settings, open_state

if TYPE_CHECKING:
    from rich.console import RenderableType

_HERE: Final = 1.0
_AFAR: Final = 5.0
_BAR: Final = 10
_NAME: Final = 22
_INDENT: Final = 6
_GB: Final = 10**9
_HOT: Final = 85


def gpus(
    *names: str,
    watch: Annotated[bool, Parameter(name=["--watch", "-w"], negative="")] = False,
    mended: str = "",
    json: Json = False,
    state: Folder = None,
) -> None:
    """Show what each GPU does now: memory, load, heat and power, who has it, and whether it is lent.

    Without names these are this machine's GPUs, with or without an executor; a sleeping GPU is not woken to
    be shown. In the bar `█` is what runs hold of its memory, `▓` what the owner's programs do.

    Args:
        names: Executors to ask instead, by the names that `pushtrain executor status` tells; `all` is each
            that you may ask.
        mended: Say that a GPU of this machine which has failed is in order again, by its number or UUID: it
            is lent again, unless the driver still finds it wrong.
        watch: Show it again and again until Ctrl-C: this machine each second, others every five.
    """
    folder = open_state(state)
    if json and watch:
        raise UsageError("`--watch` is for people, `--json` for programs.", mend="Leave one of them out.")

    if mended:
        _mend(folder, mended, as_json=json)
        return

    def look() -> list[MachineGpus]:
        return _asked(names, state) if names else [_here(folder)]

    if json:
        render.emit_json(look())
        return
    if not watch:
        found = look()
        if not render.console().is_terminal:
            _plainly(found)
            return
        for part in _page(found):
            render.console().print(part, soft_wrap=False)
        return
    _watch(look, _AFAR if names else _HERE)


def _mend(folder: StateFolder, which: str, *, as_json: bool) -> None:
    found = Excluded(folder.excluded, clock=time.time).forgive(which)
    if found is None:
        raise NotFound(
            f"GPU {which} does not count as failed here.", mend="`pushtrain gpus` tells how each stands."
        )
    if as_json:
        render.emit_json(found)
        return
    render.tell(f"GPU {found.number} ({found.name}) is lent again, unless it is still out of order.")


def _watch(look: Callable[[], list[MachineGpus]], pause: float) -> None:
    from rich.console import Group
    from rich.live import Live

    screen = render.console()
    if not screen.is_terminal:
        raise UsageError("`--watch` needs a terminal.", mend="Leave it out, or take `--json` in a loop.")
    with Live(Group(*_page(look())), console=screen, auto_refresh=False, screen=False) as live:
        while True:
            time.sleep(pause)  # the pace of `--watch`
            live.update(Group(*_page(look())), refresh=True)


# --- who tells --------------------------------------------------------------------------------------------


def _here(folder: StateFolder) -> MachineGpus:
    """This machine's GPUs, as its executor tells, else as the driver does."""
    settings = load_settings(folder)
    if running_card(folder) is not None:
        with contextlib.suppress(PushtrainError):  # it may be ending just now: then the driver is asked
            return client_maker(folder, settings)(executor_addresses(folder, settings)[0]).gpus()
    from pushtrain.plumbing.machine.gpu import Sampler, inventory  # lazy: it loads NVIDIA's library

    found, sampler = inventory(wake=False), Sampler(wake=False)
    try:
        samples = {sample.uuid: sample for sample in sampler.sample()}
    finally:
        sampler.close()
    history, _ = open_history(folder)
    going = [run for run in history.runs() if run.state is State.RUNNING] if history is not None else []
    states = []
    for gpu in found:
        runs = [
            GpuRun(id=run.id, title=run.command.job.title, repository=run.command.repository)
            for run in going
            if gpu.uuid in run.gpus
        ]
        stands = state_of(gpu, samples.get(gpu.uuid), None, runs=runs, lent=False)
        states.append(stands if gpu.uuid else stands.model_copy(update={"asleep": True}))
    return MachineGpus(executor=settings.executor.name, at=time.time(), gpus=tuple(states), served=False)


def _asked(names: Sequence[str], state: Path | None) -> list[MachineGpus]:
    known = everyone(state)
    answers = ask_all(askable(known), lambda client: client.gpus())
    told: dict[str, MachineGpus] = {}
    for answer in answers:
        if answer.value is not None:
            told.setdefault(answer.client.id, answer.value)
    if "all" in names:
        found = list(told.values())
    else:
        found = [one for one in told.values() if one.executor in names]
        missing = [name for name in names if name not in {one.executor for one in found}]
        if missing:
            silent = {known.name(one.client): one.trouble for one in answers if one.value is None}
            for name in missing:
                if name in silent:
                    raise Unreachable(f"{name} does not answer: {silent[name]}")
            raise NotFound(
                f"No executor that you may ask is called {missing[0]}.",
                mend="`pushtrain executor status` lists them.",
            )
    if not found:
        raise Nobody("No executor tells of its GPUs.", mend="`pushtrain doctor` looks closer.")
    return found


# --- what is shown ----------------------------------------------------------------------------------------


def _page(machines: Sequence[MachineGpus]) -> list["RenderableType"]:
    """Each machine: a line, and below it two for each card, within 80 columns."""
    from rich.padding import Padding
    from rich.text import Text

    parts: list[RenderableType] = []
    for one in machines:
        if parts:
            parts.append(Text())
        parts.append(Text.from_markup(_headline(one)))
        for state in one.gpus:
            parts.append(Text.from_markup(_figures(state)))
            words = f"{state.words}; drives a display" if state.gpu.display else state.words
            style = "red" if state.lost else "green" if state.runs else "yellow" if state.stands else "dim"
            parts.append(Padding(Text(clean(words), style=style), (0, 0, 0, _INDENT)))
    return parts


def _headline(one: MachineGpus) -> str:
    name = f"[bold]{render.literal(one.executor)}[/]"
    if not one.gpus:
        return f"{name}: no GPU with a working NVIDIA driver, so it is a CPU executor."
    driver = next((state.gpu.driver for state in one.gpus if state.gpu.driver), "")
    told = [name, f"driver {render.literal(driver)}"] if driver else [name]
    if one.served:
        lent = sum(1 for state in one.gpus if state.lent)
        told.append(f"{lent} of {len(one.gpus)} GPU{'s' if len(one.gpus) > 1 else ''} lent")
    else:
        told.append("no executor runs here")
    return " · ".join(told)


def _figures(state: GpuState) -> str:
    """A card's line, in columns."""
    gpu = state.gpu
    name = clean(gpu.name).removeprefix("NVIDIA ").removeprefix("GeForce ")
    name = name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"
    busy = "" if state.utilization is None else f"{state.utilization} %"
    heat = "" if state.temperature is None else f"{state.temperature} °C"
    watts = "" if state.power is None else f"{state.power:.0f} W"
    warm = f"[red]{heat:>6}[/]" if (state.temperature or 0) >= _HOT else f"{heat:>6}"
    title = f"[bold]{gpu.number:>4}[/]  {render.literal(f'{name:<{_NAME}}')}"
    return f"{title}  {_bar(state)}  {_amount(state):>14}  {busy:>5}  {warm}  {watts:>6}".rstrip()


def _bar(state: GpuState) -> str:
    """The card's memory in ten steps: what runs hold, what the owner does, what is free."""
    total = state.gpu.memory
    if state.memory_used is None or not total:
        return " " * _BAR
    ours = state.memory_ours if state.memory_ours is not None else 0
    filled, mine = (min(_BAR, round(_BAR * part / total)) for part in (state.memory_used, ours))
    mine = min(mine, filled)
    return f"[green]{'█' * mine}[/][yellow]{'▓' * (filled - mine)}[/][dim]{'░' * (_BAR - filled)}[/]"


def _amount(state: GpuState) -> str:
    total = f"{state.gpu.memory / _GB:.1f} GB" if state.gpu.memory else ""
    return total if state.memory_used is None else f"{state.memory_used / _GB:.1f}/{total}"


def _plainly(machines: Sequence[MachineGpus]) -> None:
    """One line a card, for `grep` and `awk`."""
    rows = [
        (
            one.executor,
            state.gpu.number,
            state.gpu.name,
            _amount(state),
            "" if state.memory_ours is None else render.size(state.memory_ours),
            "" if state.utilization is None else f"{state.utilization} %",
            "" if state.temperature is None else f"{state.temperature} °C",
            "" if state.power is None else f"{state.power:.0f} W",
            state.words,
        )
        for one in machines
        for state in one.gpus
    ]
    columns = ("executor", "GPU", "name", "memory", "of runs", "busy", "heat", "power", "stands")
    if rows:
        render.table(columns, [tuple(map(render.literal, row)) for row in rows], right=columns[3:8])
    for one in machines:
        if not one.gpus:
            render.say(_headline(one))
