"""`pushtrain up`: executor and sender in one process."""

import asyncio
import subprocess

from pushtrain.cli.options import Json, Repo, State
from pushtrain.cli.room import run_until_stopped
from pushtrain.core.errors import UsageError
from pushtrain.wiring.rooms import serve_both
from pushtrain.wiring.settings import load_settings, open_state


def up(
    *,
    repo: Repo = (),
    slots: int | None = None,
    port: int | None = None,
    poll_seconds: float | None = None,
    json: Json = False,
    state: State = None,
) -> None:
    """Watch a repository and train on this machine: executor and sender in one process.

    Needs neither tunnel nor webhook: it compares the repository's branches with the runs that exist. Stand
    in a clone and say `pushtrain up`; push, and the results come back on the branch pushtrain/results.

    Args:
        repo: Remote to serve and watch; where none is named here or in settings, the clone's `origin`.
        slots: Runs at once that ask for no GPU.
        port: The executor's port; 0: any free one.
        poll_seconds: How often branches are compared.
    """
    folder = open_state(state)
    flags = {"slots": slots, "port": port}
    sender = {"poll_seconds": poll_seconds}
    settings = load_settings(folder, executor=flags, sender=sender, repositories=repo)
    if not settings.repositories:
        settings = load_settings(folder, executor=flags, sender=sender, repositories=(_origin(),))
    asyncio.run(run_until_stopped(serve_both(folder, settings), "up", as_json=json))


def _origin() -> str:
    done = subprocess.run(("git", "remote", "get-url", "origin"), capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(
            "There is no repository to watch: this folder is no clone with an `origin`.",
            mend="Stand in a clone, or name a remote with `--repo URL`.",
        )
    return done.stdout.strip()
