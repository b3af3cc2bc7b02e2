"""`pushtrain sender`: turn pushes into commands."""

import asyncio
import time
from typing import Annotated, Any

from cyclopts import App, Parameter

from pushtrain.cli.options import Json, Limit, Repo, State
from pushtrain.cli.ps import not_sent
from pushtrain.cli.room import run_until_stopped, served
from pushtrain.cli.screen import render
from pushtrain.plumbing.sqlite.outbox import HeardPush
from pushtrain.wiring.history import History
from pushtrain.wiring.rooms import serve_sender
from pushtrain.wiring.settings import open_state

app = App(name="sender")


@app.default
def sender(
    *,
    repo: Repo = (),
    executor: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    poll_seconds: float | None = None,
    host: str | None = None,
    port: int | None = None,
    json: Json = False,
    state: State = None,
) -> None:
    """Watch repositories and send a signed command for every job that a push starts.

    Pushes come by webhook (`POST /webhook`, signed with the secret in `webhook.secret` or
    PUSHTRAIN_WEBHOOK_SECRET) and, as the safety net, by comparing branches every `--poll-seconds`.

    Args:
        repo: Remote of a repository to watch; where none is named here or in settings, the clone's `origin`.
        executor: `URL PUBLIC_KEY` of an executor, in one word with a space, beside those that the
            repositories' rosters list with a key that is trusted here.
        poll_seconds: How often branches are compared.
        host: Address the webhook server listens on.
        port: Port the webhook server listens on; 0: any free one.
    """
    folder = open_state(state)
    executors = [dict(zip(("url", "public_key"), text.split(None, 1), strict=False)) for text in executor]
    flags = {"poll_seconds": poll_seconds, "host": host, "port": port, "executors": executors or None}
    settings = served(folder, repo, sender=flags)
    asyncio.run(run_until_stopped(serve_sender(folder, settings), "sender", as_json=json))


@app.command
def status(
    *,
    limit: Limit = 10,
    json: Json = False,
    state: State = None,
) -> None:
    """Show what this state folder's sender heard of lately, what came of each push, and what waits.

    It reads the folder, so it tells the same whether the sender runs or not.

    Args:
        limit: How many pushes, and how many commands, at most.
    """
    history = History(open_state(state))
    pushes, unsent = history.pushes(limit=limit), history.unsent(limit=limit)
    if json:
        render.emit_json(
            {
                "process": history.server,
                "pushes": [_pushed(heard) for heard in pushes],
                "unsent": [one.document() for one in unsent],
            }
        )
        return
    now = time.time()
    serves = f"process {history.server}" if history.server is not None else "nobody: start `pushtrain sender`"
    render.say(f"[bold]served by[/] {serves}\n")
    if pushes:
        render.table(
            ("heard", "by", "repository", "branch", "commit", "what came of it"),
            [_row(heard, now) for heard in pushes],
        )
    else:
        render.say("No push was heard of yet.")
    if unsent:
        render.say()
        render.table(
            ("run", "job", "commit", "since", "state"),
            [
                (
                    one.short,
                    render.literal(one.command.job.title),
                    one.command.commit[:7],
                    render.ago(one.since, now),
                    not_sent(one),
                )
                for one in unsent
            ],
        )
    else:
        render.say("\nNothing waits here.")


def _row(heard: HeardPush, now: float) -> tuple[str, ...]:
    push = heard.push
    return (
        render.ago(heard.received_at, now),
        heard.source,
        render.literal(push.key),
        render.literal(push.ref.removeprefix("refs/heads/").removeprefix("refs/")),
        push.after[:7],
        render.literal(heard.note or "not looked at yet"),
    )


def _pushed(heard: HeardPush) -> dict[str, Any]:
    push = heard.push
    return {
        "heard_at": heard.received_at,
        "source": heard.source,
        "repository": push.key,
        "ref": push.ref,
        "commit": push.after,
        "pusher": push.pusher,
        "note": heard.note,
    }
