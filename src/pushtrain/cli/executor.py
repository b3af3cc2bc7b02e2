"""`pushtrain executor`: lend this machine."""

import asyncio
import time
from dataclasses import asdict
from typing import Annotated

from cyclopts import App, Parameter

from pushtrain.cli.options import Json, MinIsolation, Network, Repo, State, TunnelName
from pushtrain.cli.screen import render
from pushtrain.cli.screen.ownerlines import one_line, tell
from pushtrain.plumbing.programs.courtesy import stand_back

app = App(name="executor")
app.command(
    "pushtrain.cli.rules:rules", name="rules", help="Explain the owner's rules; test a push against them."
)
app.command("pushtrain.cli.drain:drain", name="drain", help="Finish what runs, take nothing new, stop.")
app.command(
    "pushtrain.cli.disk:disk", name="disk", help="Show what lies on the disk here; collect it by hand."
)
app.command("pushtrain.cli.service:app", name="service", help="Lend this machine for good, by systemd.")


@app.default
def executor(
    *,
    repo: Repo = (),
    name: str | None = None,
    slots: int | None = None,
    label: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    host: str | None = None,
    port: int | None = None,
    tunnel: TunnelName = None,
    domain: str | None = None,
    public_url: str | None = None,
    ssh_target: str | None = None,
    ssh_remote: str | None = None,
    poll: bool | None = None,
    poll_seconds: float | None = None,
    min_isolation: MinIsolation = None,
    network: Network = None,
    json: Json = False,
    state: State = None,
) -> None:
    """Lend this machine: accept signed commands, run them, commit the results.

    It serves the repositories named by `--repo` and in settings.toml, and no others; where none is named,
    that of the clone you stand in. Ctrl-C stops the executor, never a training: runs go on, and the next
    start takes them up again.

    With `--poll` it needs nobody else: it looks at the repositories' branches itself and trains what was
    pushed. `--tunnel none --poll` is a machine that is never called and only calls out.

    Args:
        repo: Remote of a repository to serve; may be given several times.
        name: Shown on reports and commits.
        slots: Runs at once that ask for no GPU.
        label: A word that jobs may ask for; may be given several times.
        host: Address to listen on.
        port: Port to listen on; 0: any free one.
        tunnel: How others reach it; without a word ngrok where its authtoken is found (docs/tunnels.md).
        domain: A domain of yours at ngrok.
        public_url: The URL that somebody else forwards here, or at which your ssh server shows `{port}`.
        ssh_target: The server to go through, as `ssh` takes it.
        ssh_remote: Where that server listens, `PORT` or `ADDRESS:PORT`.
        poll: Be the repositories' sender, too: watch their branches and train what is pushed.
        poll_seconds: How often they are looked at.
        min_isolation: The weakest level that jobs may run at; `sandbox` without a word (docs/isolation.md).
        network: What jobs may reach; `internet` without a word (docs/network.md).
    """
    from pushtrain.cli.room import run_until_stopped, served  # lazy: the other verbs need no server
    from pushtrain.wiring.rooms import serve_executor
    from pushtrain.wiring.settings import open_state

    folder = open_state(state)
    flags = {"name": name, "slots": slots, "labels": label or None, "host": host, "port": port}
    flags |= {"tunnel": tunnel, "domain": domain, "public_url": public_url}
    flags |= {"ssh_target": ssh_target, "ssh_remote": ssh_remote, "poll": poll}
    sender = {"poll_seconds": poll_seconds}
    rules = {"min_isolation": min_isolation, "network": network}
    settings = served(folder, repo, executor=flags, sender=sender, rules=rules)
    stand_back(settings.rules.owner.nice)
    asyncio.run(run_until_stopped(serve_executor(folder, settings), "executor", as_json=json))


@app.command
def status(
    *, line: Annotated[bool, Parameter(negative="")] = False, json: Json = False, state: State = None
) -> None:
    """Show which executors are known here, whether they answer, and what they have free.

    Known are the executor of this state folder, those in the settings, trusted keys with an address, and
    those on the roster of the repository you stand in whose key is trusted here. Below it stands how this
    machine is lent at the moment, and which of your programs use its GPUs; nobody else is told their names.

    Args:
        line: Print one line about this machine, for a status bar; asks nobody, and takes no network.
    """
    if line:
        one_line(state, as_json=json)
        return
    from pushtrain.cli.connect import absences, ask_all, askable, everyone  # lazy: one line needs no network
    from pushtrain.wiring.settings import open_state

    known = everyone(state)
    answers = ask_all(askable(known), lambda client: client.challenge())
    found = {one.client.id: (one.client, one.value) for one in reversed(answers) if one.value is not None}
    if not found:
        raise next(one.trouble for one in answers if one.trouble is not None)
    if json:
        render.emit_json([answer for _, answer in found.values()])
        return
    render.table(
        ("name", "address", "slots free", "GPUs free", "running", "queued", "labels", "waits for"),
        [
            (
                render.literal(answer.card.name),
                client.url,
                f"{answer.capacity.free_slots} of {answer.capacity.slots}",
                f"{answer.capacity.free_gpus} of {len(answer.card.gpus)}",
                answer.capacity.running,
                answer.capacity.queued,
                render.literal(", ".join(answer.card.labels)),
                render.literal(answer.capacity.waits),
            )
            for client, answer in found.values()
        ],
        right=("running", "queued"),
    )
    silent = {one.client.id: one for one in answers if one.trouble and one.client.id not in found}
    sentences = [f"{known.name(one.client)}: {one.trouble}" for one in silent.values()]
    for sentence in (*sentences, *absences(known, time.time())):
        render.tell(f"{sentence.rstrip('.')}.")
    tell(open_state(state))


@app.command
def card(*, json: Json = False, state: State = None) -> None:
    """Print the card of this state folder's executor, as the roster shows it to others.

    While no executor runs here it is the card that a start would make. What it tells of the machine is set
    by `publish_gpu_uuids`, `publish_address` and `publish_host_name` (docs/settings.md).
    """
    from pushtrain.cli.roster import gpus  # lazy: they load the executor
    from pushtrain.wiring.parts import running_card
    from pushtrain.wiring.settings import load_settings, open_state
    from pushtrain.wiring.voice import published_card

    folder = open_state(state)
    found = published_card(folder, load_settings(folder))
    tried = None if running_card(folder) else "a start tries it; `pushtrain doctor` does so now"
    if json:
        render.emit_json(found)
        return
    told = {
        "name": found.name,
        "address": found.public_url or "none: it takes no calls from elsewhere",
        "listens at": f"{found.ip}:{found.port}" if found.ip else "not told",
        "key": found.public_key,
        "GPUs": gpus(found) or "none",
        "labels": ", ".join(found.labels) or "none",
        "folders": ", ".join(found.mounts) or "none",
        "repositories": ", ".join(found.repositories) or "none",
        "isolation": tried or found.isolation,
        "network": tried or found.network or "what the owner allows cannot be enforced (`pushtrain doctor`)",
        "online": "yes" if found.online else "no",
    }
    for name, value in told.items():
        render.say(f"[dim]{name:<14}[/]{value}")


@app.command
def secrets(*, json: Json = False, state: State = None) -> None:
    """List the secrets that jobs could get here, for which jobs, and what is wrong with the rest; no values.

    Those that senders sealed to this executor, for the repositories that it serves, and those that you keep
    yourself under `[[secrets]]` in settings.toml (docs/secrets.md).
    """
    from pushtrain.wiring.offered import offered  # lazy: it loads the executor
    from pushtrain.wiring.settings import load_settings, open_state

    folder = open_state(state)
    found = offered(folder, load_settings(folder))
    if json:
        render.emit_json([asdict(one) for one in found])
        return
    if not found:
        render.tell("No secret is here for any job: none is sealed to this executor, and you keep none.")
        return
    rows = [
        tuple(map(render.literal, (one.name, one.repository, one.scope, one.origin, one.trouble)))
        for one in found
    ]
    render.table(("name", "repository", "for", "from", "trouble"), rows)
