"""The demo: a real push trains a real model, and the results come back as a commit, all on loopback.

Whatever ends the story early (Ctrl-C, SIGTERM, a closed terminal, a failure) ends every process, a running
training included, and removes the folder; so does its good end, unless it was asked to keep everything.
"""

import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from types import FrameType
from typing import Final

from pushtrain.core.errors import RunFailed
from pushtrain.core.values.run import RunView
from pushtrain.core.values.states import Outcome, Stage
from pushtrain.core.values.value import RESULTS_BRANCH, Value
from pushtrain.core.wire.frames import EndFrame, LogFrame, ViewFrame
from pushtrain.demo.parts import POLL_SECONDS, Parts
from pushtrain.demo.reading import curves, last_value, readable
from pushtrain.demo.screen import Screen
from pushtrain.demo.work import WorkRepository
from pushtrain.executor.results.wording import duration
from pushtrain.plumbing.disk.trees import remove_tree

_FIRST: Final = "Read handwritten digits"
_SECOND: Final = "Look for more patterns"
_CHANGE: Final = ("FILTERS = 6", "FILTERS = 20")
_TAIL_LINES: Final = 25
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Passed = Callable[[str, float, str], None]
"""A station's name, its seconds, and a note for people."""


class Line(Value):
    """One push, from `git push` to its results."""

    run_id: str
    commit: str
    outcome: str
    seconds: float
    """From the beginning of the push to the results fetched back."""
    stations: dict[str, float]
    """Seconds of every station, by name."""
    result_commit: str
    result_path: str
    accuracy: float | None


class Told(Value):
    """The whole story, for programs."""

    folder: str
    """Empty when nothing was kept."""
    pids: dict[str, int]
    """Of what still runs."""
    host: str
    executor: str
    sender: str
    start_seconds: float
    """Until host, executor and sender were up."""
    cold: Line
    warm: Line


def play(screen: Screen, *, keep: bool = False) -> Told:
    """Tell the story.

    Args:
        screen: Where to tell it.
        keep: Leave the processes and the folder as they are when all went well.

    Raises:
        Stumbled: A part of the demo did not do its work.
        RunFailed: A training did not succeed.
    """
    with _interruptible(), as_file(files("pushtrain.demo") / "data") as data, ExitStack() as ending:
        folder = Path(tempfile.mkdtemp(prefix="pushtrain-demo-"))
        ending.callback(remove_tree, folder)
        ending.callback(_deaf)
        parts = Parts(folder, data)
        ending.callback(parts.children.end)
        ending.callback(_deaf)
        told = _tell(screen, parts)
        if not keep:
            screen.say(
                "\n  [bold]pushtrain demo --keep[/] leaves all of this running for you to look around."
            )
            return told.model_copy(update={"folder": "", "pids": {}})
        ending.pop_all()
        parts.children.leave()
        _explain_kept(screen, parts, told)
        return told


def _tell(screen: Screen, parts: Parts) -> Told:
    screen.title("pushtrain demo", f"A push becomes a trained model. Everything is in {parts.folder}")
    begun = time.monotonic()
    with screen.watching():
        screen.working("starting a Git host")
        parts.start_host()
        screen.fact("Git host", f"{parts.remote}   smart HTTP, with a token")
        screen.working("starting the executor")
        parts.start_executor()
        screen.fact("executor", f"{parts.card.public_url}   key {parts.fingerprint[:19]}…")
        screen.fact(
            "", f"jobs run at the level {parts.card.isolation}, network {parts.card.network or 'none'}"
        )
        screen.working("starting the sender")
        parts.start_sender()
        screen.fact("sender", f"{parts.webhook_url}   webhook, and a look every {POLL_SECONDS} s")
    up = time.monotonic() - begun
    person = parts.clone()
    screen.chapter("The first push: everything is new")
    cold = _push(screen, parts, person, _FIRST, whole=True)
    screen.chapter("The second push: one line is changed, all else is warm")
    _change(screen, person)
    warm = _push(screen, parts, person, _SECOND)
    _compare(screen, cold, warm)
    return Told(
        folder=str(parts.folder),
        pids=parts.children.pids,
        host=parts.host.url,
        executor=parts.card.public_url,
        sender=parts.webhook_url,
        start_seconds=round(up, 3),
        cold=cold,
        warm=warm,
    )


# --- one push ---------------------------------------------------------------------------------------------


def _push(screen: Screen, parts: Parts, person: WorkRepository, message: str, *, whole: bool = False) -> Line:
    """Push, follow the run to its end, and show the report that came back: the whole of it, or its curves."""
    stations: dict[str, float] = {}

    def passed(name: str, seconds: float, note: str) -> None:
        stations[name] = round(max(0.0, seconds), 4)
        screen.stage(name, stations[name], note)

    commit = person.commit(message=message)
    with screen.watching():
        screen.working("git push")
        begun = time.time()
        person.push("main", "--set-upstream")
        passed("push", time.time() - begun, f"{commit[:7]} on main: {message}")
        screen.working("the webhook")
        delivery = parts.children.wait_for("the webhook", lambda: parts.delivery(commit))
        passed("webhook", delivery["seconds"], f"signed by the host, answered {delivery['status']}")
        screen.working("the signed command")
        client = parts.client()
        run = parts.children.wait_for("the run", lambda: next(iter(client.runs(find=commit)), None))
        passed("command", run.accepted_at - delivery["at"], f"signed and accepted: run {run.short}")
        view = client.view(run.id)
        follower = _Follower(screen, passed)
        for frame in client.follow(run.id):
            if isinstance(frame, LogFrame):
                follower.wrote(frame)
            elif isinstance(frame, ViewFrame | EndFrame):
                view = frame.view
                follower.saw(view)
        screen.working("git fetch")
        fetching = time.time()
        person.fetch(RESULTS_BRANCH)
        done = time.time()
        passed("fetch back", done - fetching, f"{view.run.result_commit[:7]} on {RESULTS_BRANCH}")
    _check(parts, person, view)
    report, metrics = (_result(person, view, name) for name in ("README.md", "metrics.json"))
    screen.say(
        f"\n  [bold]{duration(done - begun)}[/] from `git push` to the results, "
        f"{duration(stations.get(Stage.TRAIN, 0))} of it training. {'The report:' if whole else ''}".rstrip()
        + "\n"
    )
    screen.report(readable(report, metrics) if whole else curves(metrics))
    return Line(
        run_id=run.id,
        commit=commit,
        outcome=str(view.run.outcome),
        seconds=round(done - begun, 3),
        stations=stations,
        result_commit=view.run.result_commit,
        result_path=view.run.result_path,
        accuracy=last_value(metrics, "accuracy") if metrics else None,
    )


class _Follower:
    """Tells each station as it is passed, and the training's lines as they come."""

    def __init__(self, screen: Screen, passed: Passed) -> None:
        self._screen = screen
        self._passed = passed
        self._told: set[Stage] = set()
        self._read = 0
        self._rest = b""
        self._view: RunView | None = None

    def wrote(self, frame: LogFrame) -> None:
        *lines, self._rest = (self._rest + frame.data).split(b"\n")
        for line in lines:
            self._screen.output(line.decode("utf-8", "replace").rstrip("\r"))
        self._read = frame.next_offset
        if self._view is not None:
            self.saw(self._view)

    def saw(self, view: RunView) -> None:
        self._view = view
        self._screen.working(_doing(view))
        attempt = view.attempts[-1] if view.attempts else None
        if attempt is None:
            return
        for station in attempt.stages:
            # The view runs ahead of the log: what was written before the end is shown before it.
            if station.stage is Stage.TRAIN and self._read < attempt.log_size:
                return
            self._tell(view, station.stage, station.seconds, station.note)
        if view.run.final:
            ended = attempt.ended_at or view.run.updated_at
            self._tell(view, Stage.PUBLISH, (view.run.done_at or ended) - ended, view.run.result_path)

    def _tell(self, view: RunView, stage: Stage, seconds: float, note: str) -> None:
        if stage in self._told:
            return
        self._told.add(stage)
        if stage is Stage.TRAIN:
            self._screen.output_ended(f"`pushtrain logs {view.run.short}`")
        self._passed(stage, seconds, note)


def _doing(view: RunView) -> str:
    """What the run is at, for the live line."""
    progress = view.progress
    if progress is None:
        return str(view.run.state)
    part = f", {100 * progress.done // progress.total} %" if progress.total else ""
    return f"{progress.stage}{': ' if progress.text else ''}{progress.text}{part}"


def _check(parts: Parts, person: WorkRepository, view: RunView) -> None:
    run = view.run
    if run.outcome is Outcome.SUCCEEDED:
        return
    log = "\n".join(_result(person, view, "log.txt").splitlines()[-_TAIL_LINES:])
    raise RunFailed(
        f"The demo's training {run.ending or run.state}: {run.detail or run.reason}.",
        mend=f"Its last words:\n{log or parts.children.tails(['executor'])}",
    )


def _result(person: WorkRepository, view: RunView, name: str) -> str:
    """A file of the run's results; empty when there is none."""
    run = view.run
    return person.git("show", f"{run.result_commit}:{run.result_path}/{name}", check=False)


# --- between and after ------------------------------------------------------------------------------------


def _change(screen: Screen, person: WorkRepository) -> None:
    script = person.folder / "train.py"
    before, after = _CHANGE
    script.write_text(script.read_text().replace(f"{before} ", f"{after} ", 1))
    screen.say("  [dim]train.py[/]")
    screen.change(before, after)
    screen.say()


def _compare(screen: Screen, cold: Line, warm: Line) -> None:
    screen.chapter("What you saw")
    names = list(dict.fromkeys((*cold.stations, *warm.stations)))
    rows = [(name, *(_time(line.stations.get(name)) for line in (cold, warm))) for name in names]
    rows.append(("[bold]in all[/]", *(f"[bold]{duration(line.seconds)}[/]" for line in (cold, warm))))
    rows.append(("accuracy", *(_share(line.accuracy) for line in (cold, warm))))
    screen.table(("", "first push", "second push"), rows)
    screen.say(
        "\n  Each push became a signed command, a run, and one commit with its report, its\n"
        "  model and its log. Next, in a repository of your own:\n\n"
        "    [bold]pushtrain init[/]    writes a commented pushtrain.toml by looking around\n"
        "    [bold]pushtrain check[/]   explains what a push would start, and why\n"
        "    [bold]pushtrain up[/]      watches the repository and trains on this machine"
    )


def _time(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _explain_kept(screen: Screen, parts: Parts, told: Told) -> None:
    screen.chapter("Everything is still running")
    screen.fact("your clone", str(parts.folder / "digits"))
    screen.fact("logs", f"{parts.folder}/*.log")
    screen.fact("processes", ", ".join(f"{name} {pid}" for name, pid in told.pids.items()))
    screen.say(
        f"\n    export PUSHTRAIN_STATE={parts.sender.root}\n"
        f"    pushtrain ps\n"
        f"    pushtrain show {told.warm.run_id[:8]}\n"
        f"    pushtrain logs {told.cold.run_id[:8]}\n"
        f"    git -C {parts.folder / 'digits'} log --stat origin/{RESULTS_BRANCH}\n\n"
        "  Change something in the clone and push it. To end it all:\n\n"
        f"    kill {' '.join(map(str, told.pids.values()))}\n"
        f"    chmod -R u+w {parts.folder} && rm -r {parts.folder}"
    )


# --- ending -----------------------------------------------------------------------------------------------


@contextmanager
def _interruptible() -> Iterator[None]:
    """Make every polite signal an exception in the block, so that it cleans up; as before afterwards."""
    before = {number: signal.signal(number, _raise) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise(number: int, _frame: FrameType | None) -> None:
    _deaf()  # at once: a second one that came before the first was caught left all of it behind
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _deaf() -> None:
    """From here on signals are not heard: a second Ctrl-C must not leave half of it behind."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
