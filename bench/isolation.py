"""What a sandbox costs: from the start of a shim to its command's first statement, with it and without it."""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.measures import Figure
from pushtrain.adapters.sandboxes import Ground, registry
from pushtrain.core.values.isolation import JobNetwork
from pushtrain.executor.runs import launch
from pushtrain.plumbing.attempts.records import Limited, Orders
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.isolation import cgroups
from pushtrain.plumbing.programs import proc
from pushtrain.ports import Cage, Enclosure, Sandbox
from pushtrain.wiring.parts import adapter


def isolation(quick: bool) -> Iterator[Figure]:
    """Each level against `none`, in turns within the same run."""
    rounds = 10 if quick else 40
    levels = ("sandbox", "confined")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        compiled = launch.compile_shim(folder)
        sandboxes: dict[str, Sandbox] = {
            name: adapter(registry[name], Ground(folder / "isolation")) for name in levels
        }
        took: dict[str, list[float]] = {name: [] for name in ("none", *levels)}
        for number in range(rounds + 2):
            for name, times in took.items():
                if name in sandboxes and sandboxes[name].missing()[0]:
                    continue
                seconds = _first_statement(
                    RunDir.of(folder, f"{name}-{number}", 1), sandboxes.get(name), compiled
                )
                if number > 1:  # the first rounds warm the page cache
                    times.append(seconds)
        plain = statistics.median(took["none"])
        for name in levels:
            if not took[name]:
                continue
            more = (statistics.median(took[name]) - plain) * 1e3
            note = f"plain {plain * 1e3:.1f} ms"
            yield Figure(
                f"a start at level `{name}`, over a plain one", more, "ms", "≤ 15 ms", more <= 15, note
            )


def _first_statement(folder: RunDir, sandbox: Sandbox | None, compiled: Path) -> float:
    folder.create()
    folder.tree.mkdir()
    begun = time.time()
    cage = Cage((folder.job, folder.checkpoint), (), folder.tmp, JobNetwork.FULL)
    enclosure = sandbox.enclose(cage) if sandbox is not None else Enclosure()
    groups = cgroups.of_attempt(_GROUPS, f"bench-{os.getpid()}-{folder.root.parent.name}")
    orders = Orders(
        argv=("date", "+%s.%N"), env={"PATH": "/usr/bin:/bin"}, cwd=str(folder.tree), enclosure=enclosure,
        log_limit=1 << 20, timeout=60, setup_timeout=60, grace=1,
        limits=Limited(memory=1 << 30, processes=1000, disk=1 << 30, cgroups=groups),
    )  # fmt: skip
    shim = launch.start(folder, orders, compiled)
    assert proc.ended_within(shim.pid, 30)
    launch.bury(shim)
    said = folder.log.read_text()
    assert said[:1].isdigit(), said
    return float(said) - begun


_GROUPS = cgroups.find()
