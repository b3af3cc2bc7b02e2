"""`pushtrain executor`: lend this machine."""

import asyncio
from typing import Annotated

from cyclopts import App, Parameter

from pushtrain.cli import render
from pushtrain.cli.connect import clients
from pushtrain.cli.options import Json, Repo, State
from pushtrain.cli.room import run_until_stopped
from pushtrain.wiring.rooms import serve_executor
from pushtrain.wiring.settings import load_settings, open_state

app = App(name="executor")


@app.default
def executor(
    *,
    repo: Repo = (),
    name: str | None = None,
    slots: int | None = None,
    label: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    host: str | None = None,
    port: int | None = None,
    json: Json = False,
    state: State = None,
) -> None:
    """Lend this machine: accept signed commands, run them, commit the results.

    It serves the repositories named by `--repo` and in settings.toml, and no others. Ctrl-C stops the
    executor, never a training: runs go on, and the next start takes them up again.

    Args:
        repo: Remote of a repository to serve; may be given several times.
        name: Shown on reports and commits.
        slots: Runs at once that ask for no GPU.
        label: A word that jobs may ask for; may be given several times.
        host: Address to listen on.
        port: Port to listen on; 0: any free one.
    """
    folder = open_state(state)
    flags = {"name": name, "slots": slots, "labels": label or None, "host": host, "port": port}
    settings = load_settings(folder, executor=flags, repositories=repo)
    asyncio.run(run_until_stopped(serve_executor(folder, settings), "executor", as_json=json))


@app.command
def status(*, json: Json = False, state: State = None) -> None:
    """Show whether the executors that this state folder knows answer, and what they have free."""
    found = [client.challenge() for client in clients(state)]
    if json:
        render.emit_json(found)
        return
    render.table(
        ("name", "address", "slots free", "GPUs free", "running", "queued", "labels"),
        [
            (
                render.literal(answer.card.name),
                render.literal(answer.card.public_url),
                f"{answer.capacity.free_slots} of {answer.capacity.slots}",
                f"{answer.capacity.free_gpus} of {len(answer.card.gpus)}",
                answer.capacity.running,
                answer.capacity.queued,
                render.literal(", ".join(answer.card.labels)),
            )
            for answer in found
        ],
        right=("running", "queued"),
    )
