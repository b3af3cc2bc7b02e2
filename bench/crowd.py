"""Ten thousand runs that wait: accepting one more, and listing them."""

import subprocess
import time
from collections.abc import Iterator

from bench.measures import JOB, Figure
from bench.world import PUSHTRAIN, environment, fill, spread, world
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.plumbing.keys.authorized import load_or_create
from pushtrain.testing import a_command, a_spec

WAITING = 10_000


def crowd(quick: bool) -> Iterator[Figure]:
    """A real executor whose one slot is taken, with ten thousand runs behind."""
    rounds = 100 if quick else 1000
    with world() as made:
        work = made.repository("crowd", {"pushtrain.toml": JOB})
        repo, where = made.host.remote("bench/crowd"), made.host.key("bench/crowd")
        place = {"repository": where, "commit": work.head()}
        fill(made.folder / "state", WAITING - rounds, command="sleep 3600", ended=False, **place)
        key = load_or_create(made.folder / "state" / "identity.key")
        room = made.room("executor", "--repo", repo, "--tunnel", "none", "--slots", "1")
        client = ExecutorClient(str(room.facts["url"]), key.public_key(), key)
        deadline = time.monotonic() + 60
        while client.challenge().capacity.free_slots and time.monotonic() < deadline:
            time.sleep(0.05)
        job = a_spec(command="true")
        times = []
        for number in range(rounds):
            command = a_command(job=job, request=f"more-{number}", **place)
            begun = time.perf_counter()
            client.send(command)
            times.append(time.perf_counter() - begun)
        ordered = sorted(times)
        p99 = ordered[int(len(ordered) * 0.99)]
        yield Figure(
            f"one more accepted while up to {WAITING:,} wait, p99",
            p99 * 1e3,
            "ms",
            "≤ 50 ms",
            p99 <= 0.05,
            f"median {ordered[len(ordered) // 2] * 1e3:.1f}; challenge, signature and durable write",
        )
        argv = (PUSHTRAIN, "ps", "--state", str(room.state))
        listed = []
        for _ in range(4 if quick else 15):
            begun = time.perf_counter()
            subprocess.run(argv, check=True, capture_output=True, env=environment(), cwd=made.folder)
            listed.append(time.perf_counter() - begun)
        median, high = spread(listed[1:])
        yield Figure(
            f"`ps` while {WAITING:,} wait",
            median * 1e3,
            "ms",
            "≤ 300 ms",
            median <= 0.3,
            f"p90 {high * 1e3:.0f}",
        )
