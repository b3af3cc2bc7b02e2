"""The line when the executor is elsewhere: through a real ssh tunnel on loopback, beside the same line without."""

import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import tomlkit

from bench.measures import Figure
from bench.world import Room, World, world
from pushtrain.core.wire.signing import parse_public, public_text
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.plumbing.keys.authorized import Authorized, load_or_create

# The tests' cable and ssh server serve here, too.
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from cable import laid
from sshd import Sshd

_FIRST = "open(os.environ['PUSHTRAIN_RESULTS_DIR'] + '/first', 'w').write(repr(time.time()))"
JOB = f"""[job.t]
environment = "system"
command = ["python3", "-c", "import os, time; {_FIRST}"]
"""


class Lab:
    """One executor behind an ssh server, and senders that reach it in different ways."""

    def __init__(self, made: World, server: Sshd, ways: tuple[str, ...]) -> None:
        self.made = made
        self.works = {way: made.repository(way, {"pushtrain.toml": JOB}) for way in ways}
        state = made.folder / "executor"
        state.mkdir(mode=0o700)
        settings = {"roster": "", "executor": {"ssh_config": str(server.config), "slots": 2}}
        (state / "settings.toml").write_text(tomlkit.dumps(settings))
        repos = [word for way in ways for word in ("--repo", made.host.remote(f"bench/{way}"))]
        tunnel = ("--tunnel", "ssh", "--ssh-target", "gpu", "--public-url", "http://127.0.0.1:{port}")
        self.executor = made.room("executor", *repos, *tunnel, state="executor")
        self.key = load_or_create(state / "identity.key").public_key()

    def sender(self, way: str, url: str) -> Room:
        """A sender that watches one repository and knows the executor by one address."""
        state = self.made.folder / f"{way}-sender"
        state.mkdir(mode=0o700)
        Authorized(self.executor.state / "authorized_keys").add(
            load_or_create(state / "identity.key").public_key(), name=way
        )
        settings = {
            "roster": "",
            "repositories": [self.made.host.remote(f"bench/{way}")],
            "sender": {
                "poll_seconds": 3600.0,
                "executors": [{"url": url, "public_key": public_text(self.key)}],
            },
        }
        (state / "settings.toml").write_text(tomlkit.dumps(settings))
        return self.made.room("sender", state=state.name)

    def push(self, room: Room, way: str, number: int) -> float:
        """Push, tell the sender, and wait for the results; seconds from the webhook on."""
        work = self.works[way]
        before, old = work.head(), self.made.tip(way)
        after = work.commit({"note.txt": f"{number}\n"}, f"Change {number}")
        work.push()
        begun = time.time()
        self.made.webhook(room, way, before, after)
        return self.made.wait_tip(way, old) - begun

    def trip(self, room: Room, url: str) -> float:
        """Seconds of one challenge on a kept connection."""
        identity = load_or_create(room.state / "identity.key")
        client = ExecutorClient(url, parse_public(public_text(self.key)), identity)
        times = []
        for _ in range(21):
            begun = time.perf_counter()
            client.challenge()
            times.append(time.perf_counter() - begun)
        client.close()
        return statistics.median(times[1:])


def tunnel(quick: bool) -> Iterator[Figure]:
    """Webhook → results through ssh and past it, in turns; and how many requests one run costs."""
    rounds = 7 if quick else 25
    with world() as made, TemporaryDirectory(prefix="pushtrain-ssh-") as folder:
        server = Sshd(Path(folder))
        server.start()
        try:
            lab = Lab(made, server, ("direct", "ssh", "counted"))
            urls = {"direct": lab.executor.facts["local"], "ssh": lab.executor.facts["url"]}
            rooms = {way: lab.sender(way, url) for way, url in urls.items()}
            times: dict[str, list[float]] = {way: [] for way in rooms}
            for number in range(rounds + 2):
                for way, room in rooms.items():
                    times[way].append(lab.push(room, way, number))
            trips = {way: lab.trip(room, urls[way]) for way, room in rooms.items()}
            yield _slower({way: each[2:] for way, each in times.items()}, trips)
            yield _requests(lab)
        finally:
            for room in made.rooms:  # before their tunnel goes
                room.end()
            made.rooms.clear()
            server.stop()


def _slower(done: dict[str, list[float]], trips: dict[str, float]) -> Figure:
    """Each turn against the one before it, so that a busy machine is busy for both."""
    added = 2 * (trips["ssh"] - trips["direct"])
    ratio = statistics.median(
        (through - added) / past for through, past in zip(done["ssh"], done["direct"], strict=True)
    )
    through, past = (statistics.median(done[way]) * 1e3 for way in ("ssh", "direct"))
    note = f"{through:.0f} ms against {past:.0f} ms; two round trips cost {added * 1e3:.1f} ms, taken off"
    return Figure(
        "webhook → results through ssh", 100 * (ratio - 1), "% more", "≤ 5 % more", ratio <= 1.05, note
    )


def _requests(lab: Lab) -> Figure:
    with laid(int(lab.executor.facts["local"].rpartition(":")[2])) as cable:
        lab.push(lab.sender("counted", cable.url), "counted", 0)
        count = len(cable.requests)
        told = ", ".join(cable.requests)
    return Figure("requests of one run, from the sender to the executor", count, "", "≤ 2", count <= 2, told)
