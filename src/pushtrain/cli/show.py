"""`pushtrain show`: everything about one run."""

import shlex
import time

from pushtrain.cli.find import find_anywhere
from pushtrain.cli.options import Json, State
from pushtrain.cli.ps import not_sent, standing
from pushtrain.cli.screen import render
from pushtrain.core.runs.retry import worth_telling
from pushtrain.core.text.queries import shown_view
from pushtrain.core.values.run import Attempt, Run, RunView
from pushtrain.core.values.states import NEVER
from pushtrain.core.values.states import State as RunState
from pushtrain.wiring.history import Unsent


def show(which: str = "", /, *, json: Json = False, state: State = None) -> None:
    """Show one run: its stages, how it ended, where its results are.

    Of a command that waits at the sender of your state folder, or was refused there, it tells why.

    Args:
        which: A run's id or its beginning, a commit, a branch or a job; the newest run when left out.
    """
    found = find_anywhere(which, state)
    if isinstance(found, Unsent):
        _unsent(found, as_json=json)
        return
    view = found.view
    if json:
        render.emit_json(view)
        return
    _facts(view.run, standing(view.run))
    for left, attempt in worth_telling(view.attempts):
        if left:
            render.say(f"\n[dim]… {left} more like it[/]")
        _attempt(attempt, several=len(view.attempts) > 1, over=view.run.final)
    _progress(view)
    _files(view)
    _next(view.run)


def _unsent(one: Unsent, *, as_json: bool) -> None:
    """Tell of a command that is no run yet, or never will be."""
    if as_json:
        render.emit_json({**shown_view(RunView(run=one.run)).model_dump(mode="json"), "run": one.document()})
        return
    _facts(one.run, not_sent(one))
    if one.executor:
        render.say(f"  [dim]{'may be at':<11}[/]{render.literal(one.executor)}")
    after = {
        "waiting": f"pushtrain cancel {one.short} · pushtrain executor status",
        "refused": f"pushtrain rerun {one.short}",
        "cancelled": f"pushtrain rerun {one.short}",
    }
    render.say(f"\n[dim]{after[one.state]}[/]")


def _facts(run: Run, stands: str) -> None:
    command = run.command.job.command
    render.say(f"[bold]{render.literal(run.command.job.title)}[/]  {stands}")
    if run.detail:
        render.say(f"[bold]{render.literal(run.detail)}[/]")
    facts = {
        "run": run.id,
        "commit": f"{run.command.commit[:12]} on {run.command.ref.removeprefix('refs/heads/')}",
        "repository": run.command.repository,
        "command": command if isinstance(command, str) else shlex.join(command),
        "accepted": render.when(run.accepted_at),
        "results": f"{run.result_commit[:12]} {run.result_path}" if run.result_commit else "",
        "waits": run.waiting_for,
        "next try": _next_try(run),
        "sender": run.sender,
    }
    for name, value in facts.items():
        if value:
            shown = render.literal(value).replace("\n", f"\n{'':13}")  # no line of it passes for one of ours
            render.say(f"  [dim]{name:<11}[/]{shown}")


def _next_try(run: Run) -> str:
    """When a run that waits for its time, or its results, are tried again."""
    now = time.time()
    if run.state is RunState.QUEUED and now < run.not_before < NEVER:
        return render.ahead(run.not_before, now)
    if not run.pending:
        return ""
    tries = f"after {run.publish_tries} that failed"
    return f"{render.ahead(run.not_before, now)}, {tries}; what is there is kept"


def _attempt(attempt: Attempt, *, several: bool, over: bool) -> None:
    """One attempt; how it ended is said above where it was the run's only one."""
    if several or attempt.executor:
        render.say(f"\n[bold]attempt {attempt.number}[/] on {render.literal(attempt.executor)}")
    for stage in attempt.stages:
        note = f"  [dim]{render.literal(stage.note)}[/]" if stage.note else ""
        render.say(f"  {stage.stage:<12}{render.seconds(stage.seconds):>9}{note}")
    if attempt.gpu is not None:
        from pushtrain.executor.results.wording import gpu_words

        render.say(f"  [dim]used[/]        {gpu_words(attempt.gpu)}")
    if attempt.exit_code is not None:
        render.say(f"  [dim]exit code[/]   {attempt.exit_code:>9}")
    if attempt.reason and (several or not over):
        told = f": {render.literal(attempt.detail)}" if attempt.detail else ""
        render.say(f"  [dim]ended[/]       {attempt.reason}{told}")


def _progress(view: RunView) -> None:
    if view.progress is None:
        return
    part = f" {100 * view.progress.done // view.progress.total} %" if view.progress.total else ""
    render.say(f"  {view.progress.stage:<12}{'…':>9}  {render.literal(view.progress.text)}{part}")


def _files(view: RunView) -> None:
    if not view.artifacts:
        return
    render.say("\n[bold]files[/]")
    for file in view.artifacts:
        until = f" until {render.when(file.until)[:10]}" if file.until else ""
        told = {"git": "in Git", "lfs": "in Git LFS", "refused": f"refused: {file.why}", "url": file.url}
        told["executor"] = f"on the executor{until}"
        where = render.literal(told.get(file.where, file.where))
        render.say(f"  {render.literal(file.path)}  [dim]{render.size(file.size)}  {where}[/]")


def _next(run: Run) -> None:
    word = "logs -f" if not run.final else "logs"
    render.say(f"\n[dim]pushtrain {word} {run.short} · pushtrain results fetch {run.short}[/]")
