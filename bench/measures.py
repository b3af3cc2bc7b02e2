"""The measures, one function each: what was done, the figure, what it should reach."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.floor import ByHand, receiver
from bench.world import PUSHTRAIN, Room, World, environment, spread, world

FILES = {f"src/part{number:02d}.py": f"VALUE = {number}\n" * 20 for number in range(17)}
LOCKED = {
    "pyproject.toml": '[project]\nname = "bench"\nversion = "1"\nrequires-python = ">=3.11"\n'
    'dependencies = ["iniconfig"]\n',
    "train.py": "import os, time\n"
    "open(os.environ['PUSHTRAIN_RESULTS_DIR'] + '/first', 'w').write(repr(time.time()))\n",
}
JOB = '[job.train]\ncommand = "exec python train.py"\n'


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    what: str
    value: float
    unit: str
    target: str
    reached: bool
    note: str = ""


Measure = Callable[[bool], Iterator[Figure]]


def _locked(folder: Path) -> dict[str, str]:
    """pyproject.toml with its lock: a real, cached environment."""
    made = folder / "lock"
    made.mkdir()
    (made / "pyproject.toml").write_text(LOCKED["pyproject.toml"])
    uv = str(Path(sys.executable).parent / "uv")
    subprocess.run((uv, "lock", "--quiet"), cwd=made, check=True, env=environment())
    return {**LOCKED, "uv.lock": (made / "uv.lock").read_text(), "pushtrain.toml": JOB}


def line(quick: bool) -> Iterator[Figure]:
    """From the webhook to the first statement and to the results on the origin, against the floor."""
    rounds = 7 if quick else 25
    with world() as made, receiver(made.folder) as url:
        files = {**FILES, **_locked(made.folder)}
        work = made.repository("line", files)
        room = made.room("up", "--repo", made.host.remote("bench/line"), "--poll-seconds", "3600")
        hand = ByHand(made, "line")
        accepted, first, done, floor_first, floor_done = [], [], [], [], []
        for number in range(rounds + 2):
            before, old = work.head(), made.tip("line")
            after = work.commit({"note.txt": f"{number}\n"}, f"Change {number}")
            work.push()
            begun = time.time()
            answer = made.webhook(room, "line", before, after)
            ended = made.wait_tip("line", old)
            by_hand = hand.run(url, _next(work, number))
            if number < 2:  # the first rounds warm the mirror and the environment
                continue
            accepted.append(answer)
            first.append(_first_statement(made, "line") - begun)
            done.append(ended - begun)
            floor_first.append(by_hand.first)
            floor_done.append(by_hand.done)
        yield from _line_figures(accepted, first, done, floor_first, floor_done)


def _next(work: object, number: int) -> str:
    """A commit that the by-hand mirror has not seen: pushed on a branch that starts nothing."""
    from pushtrain.testing import WorkRepository

    assert isinstance(work, WorkRepository)
    tree = work.git("rev-parse", "HEAD^{tree}")
    commit = work.git("commit-tree", tree, "-p", "HEAD", "-m", f"By hand {number}")
    work.git("push", "--quiet", "origin", f"{commit}:refs/hand/{number}")
    return commit


def _first_statement(made: World, name: str) -> float:
    folder = made.host.folder(f"bench/{name}")
    paths = _host_git(
        folder, "diff-tree", "-r", "--root", "--name-only", "--no-commit-id", made.tip(name)
    ).split()
    path = next(path for path in paths if path.endswith("/first"))
    return float(_host_git(folder, "show", f"{made.tip(name)}:{path}"))


def _host_git(folder: Path, *argv: str) -> str:
    done = subprocess.run(
        ("git", f"--git-dir={folder}", *argv), capture_output=True, text=True, check=True, env=environment()
    )
    return done.stdout.strip()


def _line_figures(
    accepted: list[float],
    first: list[float],
    done: list[float],
    floor_first: list[float],
    floor_done: list[float],
) -> Iterator[Figure]:
    median, high = spread(accepted)
    yield Figure(
        "webhook accepted, durable", median * 1e3, "ms", "≤ 15 ms", median <= 0.015, f"p90 {high * 1e3:.1f}"
    )
    for what, ours, floor in (
        ("webhook → first statement, warm", first, floor_first),
        ("webhook → results commit on the origin", done, floor_done),
    ):
        median, high = spread(ours)
        base = statistics.median(floor)
        note = f"{median / base:.1f} × floor of {base * 1e3:.0f} ms; p90 {high * 1e3:.0f}"
        yield Figure(what, median * 1e3, "ms", "≤ 3 × floor", median <= 3 * base, note)


def throughput(quick: bool) -> Iterator[Figure]:
    """200 trivial runs queued at once on two slots, to the last result on the origin."""
    count = 40 if quick else 200
    cells = ", ".join(map(str, range(count)))
    toml = f'[job.t]\ncommand = "true"\nenvironment = "system"\n[job.t.matrix]\nn = [{cells}]\n'
    with world() as made:
        work = made.repository("many", {**FILES, "pushtrain.toml": JOB})
        room = made.room(
            "up", "--repo", made.host.remote("bench/many"), "--poll-seconds", "3600", "--slots", "2"
        )
        before = work.head()
        after = work.commit({"pushtrain.toml": toml}, "Many")
        work.push()
        begun = time.perf_counter()
        made.webhook(room, "many", before, after)
        accepted = _accepted(room, count) - begun
        while (n := _published(made, "many", after)) < count:
            if time.perf_counter() - begun > 300:
                raise TimeoutError(f"{n} of {count} results")
            time.sleep(0.2)  # each look is a git process, which takes its part of the machine
        rate = count / (time.perf_counter() - begun)
        yield Figure(f"{count} trivial runs on 2 slots", rate, "runs/s", "≥ 8 runs/s", rate >= 8)
        per_second = count / accepted
        note = "from the webhook on: fetch, signing, HTTP and the durable write of each"
        yield Figure("… accepted", per_second, "runs/s", "≥ 250/s", per_second >= 250, note)


def _published(made: World, name: str, commit: str) -> int:
    tip = made.tip(name)
    if not tip:
        return 0
    folder = made.host.folder(f"bench/{name}")
    return int(_host_git(folder, "rev-list", "--count", f"--grep=Source-Commit: {commit}", tip))


def _accepted(room: Room, count: int) -> float:
    """Wait until the executor has accepted so many runs; the moment it was seen."""
    import apsw

    db = apsw.Connection(str(room.state / "store.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        while int(next(db.execute("SELECT count(*) FROM runs"))[0]) < count:
            time.sleep(0.005)
        return time.perf_counter()
    finally:
        db.close()


def large_tree(quick: bool) -> Iterator[Figure]:
    """The next commit of a repository of 10,000 files and 200 MB: fetch and checkout."""
    files, size = (1000, 20_000) if quick else (10_000, 20_000)
    from pushtrain.core.settings import Repository
    from pushtrain.plumbing.git.mirror import Mirror

    with world() as made:
        blob = os.urandom(size // 2)
        tree = {
            f"d{number // 100:03d}/f{number:05d}.bin": number.to_bytes(4) + blob + bytes(size // 2 - 4)
            for number in range(files)
        }
        work = made.repository("large", tree)
        key = made.host.key("bench/large")
        mirror = Mirror(
            made.folder / "mirror.git",
            Repository(key=key, remote=made.host.remote("bench/large")),
            token=made.host.token,
        )
        times = []
        for number in range(3 if quick else 4):
            commit = work.commit({f"d000/f{number:05d}.bin": os.urandom(64)}, f"Change {number}")
            work.push()
            into = made.folder / f"tree-{number}"
            begun = time.perf_counter()
            mirror.fetch("refs/heads/main", commit)
            mirror.checkout(commit, into, submodules=False, lfs=False)
            times.append(time.perf_counter() - begun)
        value = statistics.median(times[1:])
        yield Figure(
            f"next commit of {files:,} files / {files * size / 1e6:.0f} MB",
            value,
            "s",
            "≤ 2.5 s",
            value <= 2.5,
            f"first checkout {times[0]:.1f} s",
        )


def many_files(quick: bool) -> Iterator[Figure]:
    """50 result files of 20 MB in all, from the command's end to the commit on the origin."""
    toml = (
        '[job.t]\nenvironment = "system"\ncommand = """for i in $(seq 50); do head -c 400000 /dev/urandom '
        '> $PUSHTRAIN_RESULTS_DIR/f$i; done; date +%s.%N > $PUSHTRAIN_RESULTS_DIR/end"""\n'
    )
    with world() as made:
        work = made.repository("files", {"pushtrain.toml": toml})
        room = made.room("up", "--repo", made.host.remote("bench/files"), "--poll-seconds", "3600")
        times = []
        for number in range(3 if quick else 6):
            before, old = work.head(), made.tip("files")
            after = work.commit({"n": str(number)}, f"Change {number}")
            work.push()
            made.webhook(room, "files", before, after)
            seen = made.wait_tip("files", old)
            folder = made.host.folder("bench/files")
            paths = _host_git(
                folder, "diff-tree", "-r", "--root", "--name-only", "--no-commit-id", made.tip("files")
            ).split()
            end = next(path for path in paths if path.endswith("/end"))
            times.append(seen - float(_host_git(folder, "show", f"{made.tip('files')}:{end}")))
        value = statistics.median(times)
        yield Figure("50 result files / 20 MB committed and pushed", value, "s", "≤ 1.5 s", value <= 1.5)


def idle(quick: bool) -> Iterator[Figure]:
    """Memory (PSS) and CPU time of rooms that have nothing to do."""
    seconds = 10 if quick else 60
    with world() as made:
        made.repository("idle", {**FILES, "pushtrain.toml": JOB})
        repo = ("--repo", made.host.remote("bench/idle"))
        both = made.room("up", *repo, state="up")
        executor = made.room("executor", *repo, state="executor")
        sender = made.room("sender", *repo, state="sender")
        time.sleep(2 if quick else 40)  # what an executor clears up after its start is over by then
        before = _cpu(both.pid)
        time.sleep(seconds)
        used = (_cpu(both.pid) - before) * 60 / seconds
        one, two = _pss(both.pid), _pss(executor.pid) + _pss(sender.pid)
        yield Figure("idle `pushtrain up`", one / 1e6, "MB PSS", "≤ 70 MB", one <= 70e6)
        yield Figure("idle executor and sender apart", two / 1e6, "MB PSS", "≤ 110 MB", two <= 110e6)
        yield Figure(
            "idle `up`, CPU time",
            used,
            "s/min",
            "≤ 0.2 s/min",
            used <= 0.2,
            "git ls-remote once a minute included",
        )


def _pss(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(row.split()[1]) * 1024 for row in rollup.splitlines() if row.startswith("Pss:"))


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def logs(quick: bool) -> Iterator[Figure]:
    """A job that prints a million lines of 100 bytes, against the same into a file."""
    lines = 100_000 if quick else 1_000_000
    script = f"import sys, time\nb = time.perf_counter()\nline = 'x' * 99\nfor _ in range({lines}): print(line)\nsys.stdout.flush()\n"
    script += "import os\nopen(os.environ.get('PUSHTRAIN_RESULTS_DIR', '.') + '/seconds', 'w').write(repr(time.perf_counter() - b))\n"
    toml = '[job.t]\nenvironment = "system"\ncommand = ["python3", "print.py"]\n'
    with world() as made:
        work = made.repository("logs", {"pushtrain.toml": toml, "print.py": script})
        room = made.room("up", "--repo", made.host.remote("bench/logs"), "--poll-seconds", "3600")
        times, floor = [], []
        for number in range(3):
            before, old = work.head(), made.tip("logs")
            after = work.commit({"n": str(number)}, f"Change {number}")
            work.push()
            made.webhook(room, "logs", before, after)
            made.wait_tip("logs", old)
            folder = made.host.folder("bench/logs")
            paths = _host_git(
                folder, "diff-tree", "-r", "--root", "--name-only", "--no-commit-id", made.tip("logs")
            ).split()
            path = next(path for path in paths if path.endswith("/seconds"))
            times.append(float(_host_git(folder, "show", f"{made.tip('logs')}:{path}")))
            bare = made.folder / "bare"
            bare.mkdir(exist_ok=True)
            with (bare / "out").open("w") as out:
                subprocess.run(
                    ("python3", str(work.folder / "print.py")),
                    cwd=bare,
                    stdout=out,
                    check=True,
                    env=environment(),
                )
            floor.append(float((bare / "seconds").read_text()))
        ratio = min(times) / min(floor)
        yield Figure(
            f"a job that prints {lines:,} lines",
            min(times),
            "s",
            "≤ 1.3 × a file",
            ratio <= 1.3,
            f"{ratio:.2f} × {min(floor):.2f} s",
        )
        yield _live(made, room)


def _live(made: World, room: Room) -> Figure:
    """How long after it was written a live reader has a line."""
    script = (
        "import time\nfor _ in range(20):\n    print(repr(time.time()), flush=True)\n    time.sleep(0.1)\n"
    )
    toml = '[job.t]\nenvironment = "system"\ncommand = ["python3", "tick.py"]\n'
    work = made.repository("live", {"pushtrain.toml": toml, "tick.py": script})
    del room
    other = made.room(
        "up", "--repo", made.host.remote("bench/live"), "--poll-seconds", "3600", state="live-state"
    )
    before = work.head()
    after = work.commit({"n": "1"}, "Go")
    work.push()
    made.webhook(other, "live", before, after)
    argv = (PUSHTRAIN, "logs", "-f", after, "--state", str(other.state))
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        probe = subprocess.run(
            (PUSHTRAIN, "ps", after, "--json", "--state", str(other.state)),
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
        )
        if '"id"' in probe.stdout:
            break
    lags = []
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment()) as reader:
        assert reader.stdout is not None
        lags += [time.time() - float(text) for text in reader.stdout]
    worst = max(lags[-10:])
    return Figure(
        "a live reader has the last line after",
        worst * 1e3,
        "ms",
        "≤ 200 ms",
        worst <= 0.2,
        "worst of ten lines",
    )


def environments(quick: bool) -> Iterator[Figure]:
    """An unchanged environment, and the second import of large packages in a new run."""
    if quick:
        return
    names = ("numpy", "pandas", "scikit-learn")
    pyproject = f'[project]\nname = "b"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = {list(names)}\n'.replace(
        "'", '"'
    )
    code = (
        "import os, time\nb = time.perf_counter()\nimport numpy, pandas, sklearn.linear_model\n"
        "open(os.environ['PUSHTRAIN_RESULTS_DIR'] + '/seconds', 'w').write(repr(time.perf_counter() - b))\n"
    )
    with world() as made:
        lock = made.folder / "lock"
        lock.mkdir()
        (lock / "pyproject.toml").write_text(pyproject)
        subprocess.run(
            (str(Path(sys.executable).parent / "uv"), "lock", "-q"), cwd=lock, check=True, env=environment()
        )
        files = {
            "pyproject.toml": pyproject,
            "uv.lock": (lock / "uv.lock").read_text(),
            "train.py": code,
            "pushtrain.toml": JOB,
        }
        work = made.repository("env", files)
        room = made.room("up", "--repo", made.host.remote("bench/env"), "--poll-seconds", "3600")
        imports, reuse = [], []
        for number in range(4):
            before, old = work.head(), made.tip("env")
            after = work.commit({"n": str(number)}, f"Change {number}")
            work.push()
            made.webhook(room, "env", before, after)
            made.wait_tip("env", old, seconds=300)
            folder = made.host.folder("bench/env")
            paths = _host_git(
                folder, "diff-tree", "-r", "--root", "--name-only", "--no-commit-id", made.tip("env")
            ).split()
            path = next(path for path in paths if path.endswith("/seconds"))
            imports.append(float(_host_git(folder, "show", f"{made.tip('env')}:{path}")))
            reuse.append(_stage(room, after, "environment"))
            if number == 0:
                time.sleep(30)  # the bytecode is compiled in the background
        by_hand = made.folder / "hand"
        uv = str(Path(sys.executable).parent / "uv")
        subprocess.run(
            (uv, "sync", "-q", "--frozen", "--compile-bytecode"), cwd=lock, env=environment(), check=True
        )
        warm = []
        for _ in range(3):
            by_hand.mkdir(exist_ok=True)
            subprocess.run(
                (str(lock / ".venv/bin/python"), "-c", code),
                env=environment(PUSHTRAIN_RESULTS_DIR=str(by_hand)),
                check=True,
            )
            warm.append(float((by_hand / "seconds").read_text()))
        value, base = statistics.median(imports[1:]), statistics.median(warm)
        again = statistics.median(reuse[1:])
        yield Figure(
            "unchanged environment", again * 1e3, "ms", "≤ 50 ms", again <= 0.05, f"built in {reuse[0]:.1f} s"
        )
        yield Figure(
            "second import of numpy + pandas + scikit-learn",
            value,
            "s",
            "≤ 1.1 × by hand",
            value <= 1.1 * base,
            f"by hand {base:.2f} s; the first, without bytecode, {imports[0]:.2f} s",
        )


def _stage(room: Room, commit: str, stage: str) -> float:
    import json

    argv = (PUSHTRAIN, "show", commit, "--json", "--state", str(room.state))
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment())
    times = json.loads(done.stdout)["attempts"][-1]["stages"]
    return float(next(time["seconds"] for time in times if time["stage"] == stage))


def start_up(quick: bool) -> Iterator[Figure]:
    """How long the command line takes, above a bare interpreter."""
    rounds = 7 if quick else 21

    def median(*argv: str) -> float:
        times = []
        for _ in range(rounds):
            begun = time.perf_counter()
            subprocess.run(argv, capture_output=True, check=True, env=environment())
            times.append(time.perf_counter() - begun)
        return statistics.median(times)

    bare = median(sys.executable, "-c", "pass")
    version = median(PUSHTRAIN, "--version") - bare
    yield Figure(
        "`pushtrain --version` above a bare interpreter",
        version * 1e3,
        "ms",
        "≤ 60 ms",
        version <= 0.06,
        f"bare {bare * 1e3:.0f} ms",
    )
    with world() as made:
        made.repository("cli", {"pushtrain.toml": JOB})
        room = made.room("up", "--repo", made.host.remote("bench/cli"), "--poll-seconds", "3600")
        listed = median(PUSHTRAIN, "ps", "--state", str(room.state))
        yield Figure("`pushtrain ps`", listed * 1e3, "ms", "≤ 300 ms", listed <= 0.3)


def placement(quick: bool) -> Iterator[Figure]:
    """Deciding where runs go, among a hundred executors of which everything is known."""
    from pushtrain.core.values.card import FreeGpu
    from pushtrain.core.values.jobspec import Resources
    from pushtrain.plumbing.sqlite.outbox import Outgoing
    from pushtrain.sender.placement import Given, Seen, decide
    from pushtrain.testing import a_capacity, a_card, a_command, a_gpu, a_spec

    def waits(number: int) -> Outgoing:
        job = a_spec(resources=Resources(gpus=1, gpu_memory=10 << 30, labels=("lab",)))
        return Outgoing(a_command(job=job, request=str(number)), "waiting", "", 0, 0, 0, 0, "", 0, 0)

    def seen(number: int, free: bool) -> Seen:
        gpus = tuple(a_gpu(index, memory=8 * (1 + number % 4) << 30) for index in range(1 + number % 8))
        card = a_card(name=f"lab-{number}", gpus=gpus, labels=("lab",))
        memory = tuple(gpu.memory for gpu in gpus) if free else ()
        capacity = a_capacity(free_gpus=len(memory), free=tuple(FreeGpu(memory=size) for size in memory))
        return Seen(str(number), card.name, card, capacity, proven=True)

    labs = {free: [seen(number, free) for number in range(100)] for free in (True, False)}
    for count, free, what in (
        (1, True, "one run placed among 100 executors that are free"),
        (1, False, "… that are busy: it waits, and says for what"),
        (1000, False, "1000 runs that wait, among 100 that are busy"),
    ):
        given = Given([waits(number) for number in range(count)], labs[free])
        times = []
        for _ in range(20 if quick else 200):
            begun = time.perf_counter()
            decide(given, now=0, lost_after=3600)
            times.append(time.perf_counter() - begun)
        median, high = spread(times)
        yield Figure(what, median * 1e3, "ms", "≤ 20 ms", median <= 0.02, f"p90 {high * 1e3:.1f}")
    given, times = Given([waits(number) for number in range(10_000)], labs[True]), []
    for _ in range(3 if quick else 9):
        begun = time.perf_counter()
        decide(given, now=0, lost_after=3600)
        times.append((time.perf_counter() - begun) / 10_000)
    median, high = spread(times)
    what = "each of 10,000 runs that wait, among 100 executors that are free"
    yield Figure(what, median * 1e3, "ms", "≤ 1 ms", median <= 0.001, f"p90 {high * 1e3:.2f}")


MEASURES: dict[str, Measure] = {
    "line": line,
    "throughput": throughput,
    "large-tree": large_tree,
    "many-files": many_files,
    "idle": idle,
    "logs": logs,
    "environments": environments,
    "start-up": start_up,
    "placement": placement,
}
