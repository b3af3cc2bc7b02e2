"""Try pushtrain on a real GPU: one script, at most eight minutes, figures as a Markdown table and as JSON.

    .venv/bin/python scripts/gpu_check.py [--json FILE] [--rehearse]

A real executor (`pushtrain up`, the demo's Git host, a sandbox if the machine has one) trains on GPU 0: with
PyTorch where this Python has it, else with a program that calls CUDA's driver by ctypes. Meanwhile a program
that is not ours takes memory of the same card, as its owner would, and goes away again. Measured is whether
the job saw its card alone, how quickly the card was given back and its memory free, that the training went on
where it was, and the energy that was counted. The card must be idle: close what uses it.

`--rehearse` tells the same story without a GPU, with `pushtrain pause` in the owner's place: it proves this
script and the line, nothing of the GPU, and its figures belong in no document.

Exits with 0 when everything was reached, 1 when something was not, 77 when there is no GPU to try.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.__main__ import machine, table
from bench.measures import Figure
from bench.world import PUSHTRAIN, Room, World, environment, world

from pushtrain.core.values.card import Gpu
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Outcome, State
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.machine.gpu import Sampler, inventory
from pushtrain.plumbing.sqlite.view import View

NO_GPU: Final = 77
GRACE: Final = 20.0
SETTLE: Final = 2.0
STEPS: Final = 400
EVERY: Final = 10
"""Steps between two checkpoints."""
_ENOUGH: Final = 60
"""Steps after which the owner comes."""
_HELD: Final = 2 << 30
"""Bytes that the owner's program takes; more than `rules.owner.gpu_memory`."""
_PATIENCE: Final = 100.0
"""Seconds for which anything is waited for."""
_INVENTORY: Final = 2.0
_ATTEMPTS: Final = 2
_MOST_CPU: Final = 0.2
_QUIET: Final = 15.0
"""Seconds over which the cost of looking is measured."""

CUDA: Final = '''
import ctypes

class Cuda:
    """CUDA's driver on the first card that this process sees."""

    def __init__(self):
        self.lib = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)
        self.device, self.context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(self.device), 0)
        self.call("cuCtxCreate_v2", ctypes.byref(self.context), 0, self.device)

    def call(self, name, *given):
        code = getattr(self.lib, name)(*given)
        if code:
            raise SystemExit(f"{name} failed with {code}")

    def count(self):
        found = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(found))
        return found.value

    def uuid(self):
        raw = (ctypes.c_ubyte * 16)()
        self.call("cuDeviceGetUuid", ctypes.byref(raw), self.device)
        text = bytes(raw).hex()
        return "GPU-" + "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))

    def take(self, size):
        self.memory, self.size = ctypes.c_uint64(), size
        self.call("cuMemAlloc_v2", ctypes.byref(self.memory), ctypes.c_size_t(size))

    def work(self):
        self.call("cuMemsetD8_v2", self.memory, ctypes.c_ubyte(1), ctypes.c_size_t(self.size))
        self.call("cuCtxSynchronize")
'''

OWNER: Final = (
    CUDA
    + """
import sys, time

cuda = Cuda()
cuda.take(int(sys.argv[1]))
print(repr(time.time()), flush=True)
sys.stdin.read()
"""
)

TRAIN: Final = (
    CUDA
    + """
import json, os, signal, time
from pathlib import Path

kept = Path(os.environ["PUSHTRAIN_CHECKPOINT_DIR"])
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
steps, every, on_gpu = int(os.environ["STEPS"]), int(os.environ["EVERY"]), os.environ["ON_GPU"] == "1"
seen = {"visible": os.environ.get("CUDA_VISIBLE_DEVICES"), "by": "nothing"}
seen["nodes"] = sorted(one.name for one in Path("/dev").glob("nvidia[0-9]*"))

def train_torch():
    import torch
    seen["by"] = f"torch {torch.__version__}"
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2048, 4096), torch.nn.ReLU(), torch.nn.Linear(4096, 1)).cuda()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    file = kept / "model.pt"
    first = 0
    if file.exists():
        state = torch.load(file)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    def save(step):
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        torch.save(state, file.with_suffix(".new"))
        file.with_suffix(".new").replace(file)
    def work():
        data = torch.randn(4096, 2048, device="cuda")
        loss = ((model(data) - data.mean(1, keepdim=True)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.cuda.synchronize()
    return first, work, save

def train_plainly():
    file = kept / "plain.json"
    first = json.loads(file.read_text()) if file.exists() else 0
    if on_gpu:
        seen["by"] = "CUDA's driver"
        cuda.take(1 << 30)
    def save(step):
        file.with_suffix(".new").write_text(json.dumps(step))
        file.with_suffix(".new").replace(file)
    return first, (cuda.work if on_gpu else lambda: None), save

if on_gpu:
    cuda = Cuda()
    seen |= {"count": cuda.count(), "uuid": cuda.uuid()}
try:
    first, work, save = train_torch() if on_gpu else train_plainly()
except ImportError:
    first, work, save = train_plainly()

def tell(step):
    told = {"step": step, "first": first, "seen": seen, "at": time.time()}
    (kept / "told.new").write_text(json.dumps(told))
    (kept / "told.new").replace(kept / "told.json")

for step in range(first, steps):
    begun = time.monotonic()
    work()
    tell(step + 1)
    if (step + 1) % every == 0 or asked:
        save(step + 1)
    if asked:
        raise SystemExit(85)
    time.sleep(max(0.0, 0.05 - (time.monotonic() - begun)))
"""
)


def main(argv: list[str]) -> int:
    """Try it, print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU: proves the script only")
    given = parser.parse_args(argv)
    begun = time.perf_counter()
    gpus = inventory()
    took = time.perf_counter() - begun
    if not gpus and not given.rehearse:
        print(
            "gpu_check: this machine has no GPU with a working NVIDIA driver, so nothing was checked. "
            "`nvidia-smi` says more; `--rehearse` tries the script without one.",
            file=sys.stderr,
        )
        return NO_GPU
    gpu = None if given.rehearse else gpus[0]
    figures = [*looked(gpus, took), *Story(gpu).told()] if gpu else list(Story(None).told())
    name = f"{gpu.name}, driver {gpu.driver}" if gpu else "a rehearsal without a GPU"
    print(f"\n{name}; {machine()}\n\n{table(figures)}\n")
    if given.json:
        told = {"machine": machine(), "gpu": name, "figures": [asdict(one) for one in figures]}
        given.json.write_text(json.dumps(told, indent=2) + "\n")
    missed = [one.what for one in figures if not one.reached]
    if missed:
        print(f"gpu_check: not reached: {'; '.join(missed)}.", file=sys.stderr)
    return 1 if missed else 0


def looked(gpus: tuple[Gpu, ...], took: float) -> Iterator[Figure]:
    """What the inventory tells."""
    told = ", ".join(
        f"{one.number}: {one.memory / 10**9:.1f} GB, capability {one.capability}" for one in gpus
    )
    yield Figure("every GPU read", took * 1e3, "ms", "≤ 2000 ms", took <= _INVENTORY, told)


class Story:
    """A training, its owner's program, and the training again.

    Args:
        gpu: The card; None: a rehearsal.
    """

    def __init__(self, gpu: Gpu | None) -> None:
        self._gpu = gpu
        self._sampler = Sampler()

    def told(self) -> Iterator[Figure]:
        """Each figure as soon as it is known."""
        with world() as made, contextlib.closing(self._sampler):
            room, store = self._room(made)
            try:
                yield from self._tell(made, room, store)
            finally:
                store.close()
                room.end()
                if room.process.stdout is not None:
                    room.process.stdout.close()

    def _room(self, made: World) -> tuple[Room, View]:
        state = made.folder / "state"
        state.mkdir(mode=0o700)
        settings = (
            f"[rules.owner]\nsettle = {SETTLE:g}\ngrace = {GRACE:g}\ndisplay = true\n"
            f'[executor.environments]\ncheck = "{sys.prefix}"\n'
        )
        (state / "settings.toml").write_text(settings)
        gpus = "gpus = 1\n" if self._gpu else ""
        env = f'env = {{STEPS = "{STEPS}", EVERY = "{EVERY}", ON_GPU = "{int(self._gpu is not None)}"}}\n'
        job = f'[job.train]\ncommand = "exec python train.py"\nenvironment = {{named = "check"}}\n{gpus}{env}'
        self._work = made.repository("check", {"README.md": "A check.\n"})
        self._files = {"train.py": TRAIN, "pushtrain.toml": job}
        room = made.room("up", "--repo", made.host.remote("bench/check"), "--poll-seconds", "3600")
        return room, View(StateFolder(state).store)

    def _tell(self, made: World, room: Room, store: View) -> Iterator[Figure]:
        before, after = self._work.head(), self._work.commit(self._files, "Train")
        self._work.push()
        pushed = time.time()
        made.webhook(room, "check", before, after)
        run = self._until("the run is accepted", lambda: next(iter(store.runs()), None))
        told = self._until("it has made its first step", lambda: _told(room, run.id))
        yield Figure("push → first step", told["at"] - pushed, "s", "≤ 120 s", True, told["seen"]["by"])
        yield from self._alone(told["seen"], store.attempts(run.id)[-1].isolation)
        self._until("it is well under way", lambda: _step(room, run.id) >= _ENOUGH or None)
        with self._owner(room) as came:
            asked = self._until("it is asked to go", lambda: _event(store, run.id, "preempt-requested"))
            yield _within("owner's program → noticed", asked - came, 2)
            gone = self._until("it has gone", lambda: _event(store, run.id, "requeued"))
            yield _within("… → the job has ended", gone - came, GRACE + 1)
            if self._gpu:
                free = self._until("its memory is back", self._ours_gone)
                yield _within("job ended → its memory is free", max(0.0, free - gone), 1)
            reached = _step(room, run.id)
        left = time.time()
        again = self._until("it goes on", lambda: _goes_on(room, run.id))
        yield _within("owner gone → trains again", again["at"] - left, SETTLE + 10)
        lost = reached - again["first"]
        yield Figure("steps lost by it", float(lost), "", f"≤ {EVERY}", 0 <= lost <= EVERY, f"{reached} done")
        ended = self._until("it is done", lambda: _done(store, run.id))
        yield Figure(
            "attempts until it is done", float(_last(store, ended)), "", "2, succeeded",
            ended.outcome is Outcome.SUCCEEDED and _last(store, ended) == _ATTEMPTS, str(ended.outcome),
        )  # fmt: skip
        if self._gpu:
            yield from self._energy(store, ended)
        yield self._cost(room)

    # --- what is looked at --------------------------------------------------------------------------------

    def _alone(self, seen: dict[str, Any], isolation: str) -> Iterator[Figure]:
        """Whether the job saw its card and nothing else."""
        if self._gpu is None:
            nodes = len(seen["nodes"])
            yield Figure(
                "GPU devices seen", float(nodes), "", "0", nodes == 0 or isolation == "none", isolation
            )
            return
        mine = seen["visible"] == self._gpu.uuid and seen["uuid"] == self._gpu.uuid
        yield Figure(
            "GPUs that the job sees", float(seen["count"]), "", "1, its own", mine and seen["count"] == 1
        )
        nodes = len(seen["nodes"])
        closed = isolation in {"container", "sandbox"}
        yield Figure(
            "device nodes within", float(nodes), "", "1 in a sandbox", nodes == 1 or not closed, isolation
        )

    def _ours_gone(self) -> float | None:
        """When nothing but the owner's program uses the card any more; None: not yet."""
        sample = next(
            (one for one in self._sampler.sample() if self._gpu and one.uuid == self._gpu.uuid), None
        )
        if sample is None or sample.processes is None:
            return time.time() if sample is not None and sample.memory_used < _HELD + (1 << 30) else None
        return time.time() if len([one for one in sample.processes if not one.graphics]) <= 1 else None

    def _energy(self, store: View, run: Run) -> Iterator[Figure]:
        used = [one.gpu for one in store.attempts(run.id) if one.gpu is not None]
        joules = sum(one.joules or 0 for one in used)
        how = "power times time" if any(one.estimated for one in used) else "the card's own counter"
        yield Figure("energy counted", joules, "J", "> 0", joules > 0, how)
        seconds = sum(one.seconds for one in used)
        peak = max((one.peak_memory or 0 for one in used), default=0)
        yield Figure(
            "GPU time counted", seconds, "s", "> 0", seconds > 0, f"peak memory {peak / 10**9:.1f} GB"
        )

    def _cost(self, room: Room) -> Figure:
        before, began = _cpu(room.pid), time.monotonic()
        time.sleep(_QUIET)
        share = 100 * (_cpu(room.pid) - before) / (time.monotonic() - began)
        return Figure("looking while nothing runs, of one core", share, "%", "≤ 0.2 %", share <= _MOST_CPU)

    # --- the owner ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _owner(self, room: Room) -> Iterator[float]:
        """The owner is there; when that began."""
        if self._gpu is None:
            began = time.time()
            _verb("pause", "--state", str(room.state))
            try:
                yield began
            finally:
                _verb("resume", "--state", str(room.state))
            return
        program = subprocess.Popen(
            (sys.executable, "-c", OWNER, str(_HELD)),
            env=environment(CUDA_VISIBLE_DEVICES=self._gpu.uuid),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            line = program.stdout.readline() if program.stdout else ""
            if not line:
                raise SystemExit("gpu_check: the owner's program could not use the GPU; is its memory free?")
            yield float(line)
        finally:
            program.communicate("", timeout=20)

    @staticmethod
    def _until(what: str, look: Callable[[], Any]) -> Any:
        """Look until there is something; it is told what was waited for in vain."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            if (found := look()) is not None:
                return found
            time.sleep(0.02)
        raise SystemExit(f"gpu_check: waited {_PATIENCE:g} s in vain until {what}.")


def _within(what: str, seconds: float, most: float) -> Figure:
    return Figure(what, seconds, "s", f"≤ {most:g} s", seconds <= most)


def _told(room: Room, run_id: str) -> dict[str, Any] | None:
    """What the job says of itself in its checkpoint folder."""
    try:
        found: dict[str, Any] = json.loads(
            (room.state / "runs" / run_id / "checkpoint" / "told.json").read_text()
        )
    except (OSError, ValueError):
        return None
    return found


def _step(room: Room, run_id: str) -> int:
    return int((_told(room, run_id) or {"step": 0})["step"])


def _goes_on(room: Room, run_id: str) -> dict[str, Any] | None:
    told = _told(room, run_id)
    return told if told and told["first"] and told["step"] > told["first"] else None


def _event(store: View, run_id: str, kind: str) -> float | None:
    return next((one.time for one in store.events(run_id) if one.kind == kind), None)


def _done(store: View, run_id: str) -> Run | None:
    run = store.run(run_id)
    return run if run.state is State.DONE else None


def _last(store: View, run: Run) -> int:
    return len(store.attempts(run.id))


def _cpu(pid: int) -> float:
    """Seconds of the processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _verb(*words: str) -> None:
    subprocess.run((PUSHTRAIN, *words), check=True, capture_output=True, env=environment())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
