"""`pushtrain sender`: turn pushes into commands."""

import asyncio

from cyclopts import App

from pushtrain.cli.options import Json, Repo, State
from pushtrain.cli.room import run_until_stopped, served
from pushtrain.wiring.rooms import serve_sender
from pushtrain.wiring.settings import open_state

app = App(name="sender")


@app.default
def sender(
    *,
    repo: Repo = (),
    executor: tuple[str, ...] = (),
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
