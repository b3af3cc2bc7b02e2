"""How soon a killed executor's next start has taken up twenty trainings: from the process's start."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from bench.measures import FILES, Figure, _accepted
from bench.world import world
from pushtrain.core.errors import PushtrainError
from pushtrain.core.values.card import ExecutorCard
from pushtrain.core.values.states import Stage
from pushtrain.core.wire.signing import parse_public
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.plumbing.keys.authorized import load_or_create

_RUNS = 20
_TOML = """[job.t]
command = "echo begun; while [ ! -e gate ]; do sleep 0.2; done"
environment = "system"
[job.t.matrix]
n = {cells}
"""


def adoption(quick: bool) -> Iterator[Figure]:
    """Kill the executor while twenty attempts run, start it anew, and look when it knows them all again."""
    toml = _TOML.format(cells=json.dumps(list(range(_RUNS))))
    with world() as made:
        work = made.repository("adoption", {**FILES, "README.md": "Nothing yet\n"})
        flags = ("--repo", made.host.remote("bench/adoption"), "--poll-seconds", "3600")
        room = made.room("up", *flags, "--slots", str(_RUNS))
        state = StateFolder(room.state)
        before = work.head()
        after = work.commit({"pushtrain.toml": toml}, "Twenty")
        work.push()
        made.webhook(room, "adoption", before, after)
        _accepted(room, _RUNS)
        ids = _all_training(state)
        times = []
        for _ in range(2 if quick else 5):
            room.process.kill()
            room.process.wait()
            state.card.unlink()
            began = time.monotonic()
            with ThreadPoolExecutor(1) as pool:
                looking = pool.submit(_all_training, state, ids)
                room = made.room("up", *flags, "--slots", str(_RUNS))
                looking.result()
                times.append(time.monotonic() - began)
        for tree in state.runs.glob("*/*/job/tree"):
            (tree / "gate").touch()
        worst = max(times)
        yield Figure(
            f"a killed executor's next start has taken up {_RUNS} trainings",
            worst,
            "s",
            "≤ 2 s",
            worst <= 2,
            f"the worst of {len(times)}, from the process's start, Python's own included",
        )


def _all_training(state: StateFolder, ids: list[str] | None = None) -> list[str]:
    """Wait until the executor says of every run that it trains; their ids."""
    deadline = time.monotonic() + 120
    left: list[str] | None = list(ids) if ids else None
    while time.monotonic() < deadline:
        try:
            card = ExecutorCard.model_validate_json(state.card.read_bytes())
            client = ExecutorClient(card.public_url, parse_public(card.public_key), load_or_create(state.key))
            if left is None and len(found := client.runs(limit=100)) == _RUNS:
                left = [run.id for run in found]
                ids = list(left)
            while left:
                progress = client.view(left[-1]).progress
                if progress is None or progress.stage is not Stage.TRAIN:
                    break
                left.pop()
            if left == []:
                return ids or []
        except (OSError, ValueError, PushtrainError):
            pass
        time.sleep(0.01)
    raise TimeoutError(f"{len(left or [])} runs do not train")
