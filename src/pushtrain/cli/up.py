"""`pushtrain up`: executor and sender in one process."""

import asyncio

from pushtrain.cli.options import Json, MinIsolation, Network, Repo, State, TunnelName
from pushtrain.cli.room import run_until_stopped, served
from pushtrain.plumbing.programs.courtesy import stand_back
from pushtrain.wiring.rooms import serve_both
from pushtrain.wiring.settings import open_state


def up(
    *,
    repo: Repo = (),
    slots: int | None = None,
    port: int | None = None,
    tunnel: TunnelName = None,
    domain: str | None = None,
    public_url: str | None = None,
    ssh_target: str | None = None,
    poll_seconds: float | None = None,
    min_isolation: MinIsolation = None,
    network: Network = None,
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
        tunnel: How others reach the executor; without a word nobody does.
        domain: A domain of yours at ngrok.
        public_url: The URL that somebody else forwards here, or at which your ssh server shows `{port}`.
        ssh_target: The server to go through, as `ssh` takes it.
        poll_seconds: How often branches are compared.
        min_isolation: The weakest level that jobs may run at; `sandbox` without a word (docs/isolation.md).
        network: What jobs may reach; `internet` without a word (docs/network.md).
    """
    folder = open_state(state)
    flags = {"slots": slots, "port": port, "tunnel": tunnel, "domain": domain}
    flags |= {"public_url": public_url, "ssh_target": ssh_target}
    sender = {"poll_seconds": poll_seconds}
    rules = {"min_isolation": min_isolation, "network": network}
    settings = served(folder, repo, executor=flags, sender=sender, rules=rules)
    stand_back(settings.rules.owner.nice)
    asyncio.run(run_until_stopped(serve_both(folder, settings), "up", as_json=json))
