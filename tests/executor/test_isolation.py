"""Whole jobs inside each level of isolation: what training needs still works, and attacks come to nothing.

What each level stops in general is tried by the canaries (tests/plumbing/isolation/test_trial.py); here it is
the way from a command to its run: folders, records, log, the shim's promises.
"""

import json
import re
import signal
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from executor_house import Bare, House, done, logged, story
from training_needs import FDS, POOL, RENDEZVOUS

from pushtrain.adapters.sandboxes import Ground, registry
from pushtrain.core.errors import ConfigError
from pushtrain.core.owner.rules import Limits, Rules
from pushtrain.core.values.isolation import Isolation, JobNetwork
from pushtrain.core.values.jobspec import DataSource
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Outcome, Reason
from pushtrain.executor.runs import launch
from pushtrain.executor.runs.bytecode import MARK, Compiler
from pushtrain.executor.runs.cages import compiling_cage
from pushtrain.executor.runs.variables import attempt_mark
from pushtrain.plumbing.attempts.rundir import RunDir, held
from pushtrain.plumbing.programs import proc
from pushtrain.ports import Activation
from pushtrain.testing import eventually
from pushtrain.wiring.parts import adapter

LEVELS = ("sandbox", "confined")
MIB = 1024 * 1024


def at(house: House, name: str) -> House:
    """The house, its jobs at a level; skips where this machine does not offer it."""
    house.sandbox = adapter(registry[name], Ground(house.state.isolation))
    if why := house.sandbox.missing()[0]:
        pytest.skip(f"level `{name}` cannot be tried here: {why}")
    rules = Rules(network=JobNetwork.FULL, min_isolation=Isolation.NONE)
    house.settings = house.settings.model_copy(update={"rules": rules})
    return house


@pytest.fixture(params=LEVELS)
def house(tmp_path: Path, request: pytest.FixtureRequest) -> House:
    """An executor whose jobs are isolated."""
    return at(House(tmp_path), request.param)


@pytest.fixture(params=[*LEVELS, "none"])
def any_house(tmp_path: Path, request: pytest.FixtureRequest) -> House:
    """An executor at any level."""
    return at(House(tmp_path), request.param)


async def ran(house: House, command: str | tuple[str, ...], **changes: Any) -> tuple[Run, str]:
    """Run a command to its end; the run, and its log."""
    async with house.running() as service:
        run = await done(service, house.send(service, command, **changes))
        log = service.shown.log_chunk(run.id, 0, 0, MIB).data.decode()
    return run, log


def python(script: str) -> tuple[str, ...]:
    return ("python", "-c", script)


@story
async def test_a_job_runs_in_its_level_and_its_results_come_back(any_house: House) -> None:
    house = any_house
    command = (
        "echo kept > $PUSHTRAIN_RESULTS_DIR/kept.txt; echo '# hello' > $PUSHTRAIN_SUMMARY; "
        'echo \'{"step": 1, "loss": 2}\' > $PUSHTRAIN_METRICS; '
        "touch $PUSHTRAIN_CHECKPOINT_DIR/c $HOME/h $TMPDIR/t $XDG_CACHE_HOME/x made-in-the-work-folder; pwd"
    )
    async with house.running() as service:
        run = await done(service, house.send(service, command))
        (attempt,) = service.store.attempts(run.id)
        assert service.card().isolation == attempt.isolation == house.sandbox.level
    assert (run.outcome, run.reason) == (Outcome.SUCCEEDED, "exited"), house.result(run, "log.txt")
    report = house.result(run, "README.md")
    assert f"isolation {house.sandbox.level}" in report
    assert "hello" in report
    assert house.result(run, "files/kept.txt") == "kept"
    assert json.loads(house.result(run, "metrics.json"))


@story
async def test_the_sandbox_shows_the_system_the_jobs_folders_and_nothing_else(tmp_path: Path) -> None:
    house = at(House(tmp_path), "sandbox")
    _, log = await ran(
        house, "ls -d /* /run/* /var/* /home/* 2>/dev/null || true; id -un; hostname; ls /etc; ps ax | wc -l"
    )
    seen = set(log.split())
    assert (
        not {"/boot", "/mnt", "/srv", "/var/lib", "/run/user", "/run/dbus", "shadow", "ssh", "sudoers"} & seen
    )
    assert {"/usr", "job", "pushtrain", "passwd"} <= seen
    assert int(log.split()[-1]) < 8


@story
async def test_a_job_in_the_sandbox_fills_no_memory_that_nobody_counts(tmp_path: Path) -> None:
    """What holds its mounts is memory: neither the disk's limit nor, without control groups, memory's."""
    house = at(House(tmp_path), "sandbox")
    _, log = await ran(
        house, "for f in / /run /var; do (echo x > $f/hoard) 2>/dev/null && echo wrote $f; done; echo end"
    )
    assert "end" in log
    assert "wrote" not in log


@story
async def test_a_job_of_roots_executor_changes_no_setting_of_the_kernel(tmp_path: Path) -> None:
    """`core_pattern` would have the kernel start a job's program outside; its namespaces' are its own."""
    house = at(House(tmp_path), "sandbox")
    files = "(d + '/' + name for d, _, names in os.walk('/proc/sys') for name in names)"
    found = f"import os, json; print(json.dumps([path for path in {files} if os.access(path, os.W_OK)]))"
    _, log = await ran(house, python(found))
    own = re.compile(r"/proc/sys/(fs/mqueue/.*|kernel/(shm|msg|sem|auto_msg).*|kernel/(pid_max|ns_last_pid))")
    assert [path for path in json.loads(log) if not own.fullmatch(path)] == []


# --- what training needs ----------------------------------------------------------------------------------


@story
async def test_a_dataloaders_workers_and_shared_memory_work(any_house: House) -> None:
    any_house.commit({"pool.py": POOL, "fds.py": FDS})
    run, log = await ran(any_house, "python pool.py && python fds.py")
    assert (run.outcome, log) == (Outcome.SUCCEEDED, "pool works\ndescriptors travel\n"), log


@story
async def test_two_processes_meet_on_loopback_as_gloo_does(any_house: House) -> None:
    any_house.commit({"meet.py": RENDEZVOUS})
    run, log = await ran(any_house, ("python", "meet.py"))
    assert (run.outcome, log) == (Outcome.SUCCEEDED, "two processes met\n"), log


@story
async def test_torchrun_trains_with_two_processes(any_house: House) -> None:
    pytest.importorskip("torch", reason="torch is not among what tests install: 200 MB")
    script = (
        "import torch, torch.distributed as d\nd.init_process_group('gloo')\n"
        "x = torch.ones(1); d.all_reduce(x); print(int(x))\n"
    )
    any_house.commit({"train.py": script})
    command = "python -m torch.distributed.run --standalone --nproc-per-node 2 train.py"
    run, log = await ran(any_house, command)
    assert (run.outcome, log.count("2")) == (Outcome.SUCCEEDED, 2), log


@story
async def test_lent_folders_can_be_read_and_not_written(house: House, tmp_path: Path) -> None:
    lent = tmp_path / "lent"
    lent.mkdir()
    (lent / "train.csv").write_text("1,2\n")
    executor = house.settings.executor.model_copy(update={"mounts": {"corpus": str(lent)}})
    house.settings = house.settings.model_copy(update={"executor": executor})
    command = (
        "cat data/train.csv; echo x > data/new || echo refused; echo y >> data/train.csv || echo refused"
    )
    run, log = await ran(house, command, data=(DataSource(mount="corpus", path="data"),))
    assert run.outcome is Outcome.SUCCEEDED, log
    assert (log.count("refused"), log.splitlines()[0]) == (2, "1,2")
    assert [path.name for path in lent.iterdir()] == ["train.csv"]


# --- attacks ----------------------------------------------------------------------------------------------

TRY = """
import os, sys
def tried(name, act):
    try: print(name, 'done', repr(act())[:60])
    except OSError as error: print(name, 'refused')
"""


@story
async def test_a_job_cannot_forge_the_records_of_its_attempt(house: House) -> None:
    script = TRY + (
        "root = os.path.dirname(os.environ['PUSHTRAIN_RESULTS_DIR']); up = os.path.dirname(root)\n"
        "for name in ('exit.json', 'started.json', 'stop.json', 'spec.json', 'lock', 'log.txt'):\n"
        "    tried('write ' + name, lambda: open(f'{up}/{name}', 'w').write('{}'))\n"
        "    tried('replace ' + name, lambda: os.symlink('/etc/passwd', f'{up}/{name}.new'))\n"
        "tried('rename', lambda: os.rename(root, root + '2'))\n"
    )
    run, log = await ran(house, python(script))
    if house.sandbox.level is Isolation.SANDBOX:
        # There these names lie in an empty folder that is made of memory and ends with the job.
        assert run.outcome is Outcome.SUCCEEDED
    else:
        assert "done" not in log, log
    assert (run.outcome, run.reason) == (Outcome.SUCCEEDED, Reason.EXITED)
    folder = RunDir.of(house.state.runs, run.id, 1)
    verdict = folder.read_verdict()
    assert verdict is not None
    assert (verdict.code, verdict.log_size) == (0, len(log))
    assert not list(folder.root.glob("*.new"))


@story
async def test_a_job_can_neither_truncate_nor_reopen_its_log(house: House) -> None:
    script = TRY + (
        "print('evidence', flush=True)\n"
        "tried('ftruncate', lambda: os.ftruncate(1, 0))\n"
        "for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):\n"
        "    tried('reopen', lambda: os.open('/proc/self/fd/1', flags))\n"
        "tried('truncate', lambda: os.truncate('/proc/self/fd/1', 0))\n"
        "import fcntl\nfcntl.fcntl(1, fcntl.F_SETFL, 0)\n"
        "tried('write over', lambda: os.pwrite(1, b'forg' + b'ed', 0))\n"
    )
    run, log = await ran(house, python(script))
    assert log.startswith("evidence\n"), log
    assert "truncate done" not in log
    assert "forged" not in log
    assert run.outcome is Outcome.SUCCEEDED, log
    folder = RunDir.of(house.state.runs, run.id, 1)
    assert folder.log.read_text() == log


@story
async def test_a_job_reads_no_other_run_no_key_and_no_store(house: House) -> None:
    async with house.running() as service:
        other = await done(service, house.send(service, "echo private"))
        house.state.key.write_text("private")
        log = RunDir.of(house.state.runs, other.id, 1).log
        places = [log, house.state.key, house.state.store, house.state.runs, house.origin]
        script = TRY + (
            "look = lambda path: os.listdir(path) if os.path.isdir(path) else open(path).read()\n"
            f"for path in {list(map(str, places))}: tried(path, lambda: look(path))\n"
        )
        run = await done(service, house.send(service, python(script)))
        text = service.shown.log_chunk(run.id, 0, 0, MIB).data.decode()
    assert other.id[:8] not in text.replace(str(log), ""), "runs are not listed"
    for path in (log, house.state.key, house.state.store):
        assert f"{path} refused" in text, text
    assert "private" not in text


@story
async def test_planted_links_lead_nowhere(house: House, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the owner's")
    command = (
        f"ln -s {secret} $PUSHTRAIN_RESULTS_DIR/stolen; ln -sf {secret} $PUSHTRAIN_SUMMARY; "
        f"ln -sf {secret} $PUSHTRAIN_METRICS; ln -s {tmp_path} $PUSHTRAIN_RESULTS_DIR/folder; "
        f"cat {secret} || true; echo owned > {secret} || true"
    )
    run, log = await ran(house, command)
    assert secret.read_text() == "the owner's"
    assert "the owner's" not in log + house.result(run, "README.md")


@story
async def test_a_double_forked_survivor_dies_with_its_job(house: House) -> None:
    script = (
        "import os, signal, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork(): os._exit(0)\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    open('alive', 'w').close()\n"
        "    time.sleep(600)\n"
        "while not os.path.exists('alive'): time.sleep(0.01)\n"
    )
    async with house.running() as service:
        run = await done(service, house.send(service, python(script)))
        assert run.outcome is Outcome.SUCCEEDED
        assert not proc.marked(attempt_mark(service.store.run(run.id)))


@story
async def test_a_stop_reaches_the_command_inside_and_is_polite(house: House) -> None:
    script = (
        "import os, signal, sys\n"
        "def end(*_): print('saved', flush=True); sys.exit(3)\n"
        "signal.signal(signal.SIGTERM, end); os.write(1, b'ready\\n'); signal.pause()\n"
    )
    async with house.running() as service:
        run = house.send(service, python(script))
        await logged(service, run, "ready")
        service.cancel(run.id, by="test")
        run = await done(service, run)
        assert run.outcome is Outcome.CANCELLED
        assert "saved" in service.shown.log_chunk(run.id, 0, 0, MIB).data.decode()


@story
async def test_the_tree_ends_with_its_shim_and_only_then_is_the_lock_free(house: House) -> None:
    async with house.running() as service:
        run = house.send(service, "echo ready; sleep 600 & setsid sleep 600 & wait", retry={"lost": 0})
        await logged(service, run, "ready")
        folder = RunDir.of(house.state.runs, run.id, 1)
        shim = launch.find(folder)
        assert shim is not None
        assert held(folder.lock)
        below = await eventually(lambda: found if len(found := proc.descendants(shim.pid)) >= 3 else None)
        proc.send(shim.pid, shim.start, signal.SIGKILL)
        run = await done(service, run)
        assert run.outcome is Outcome.LOST
        assert not held(folder.lock)
        assert not [pid for pid in below if (found := proc.stat(pid)) and found.state not in "ZX"]


@story
async def test_the_command_has_neither_the_lock_nor_any_other_descriptor(house: House) -> None:
    run, log = await ran(house, python("import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))"))
    assert log == "[0, 1, 2, 3]\n", "the fourth is the listing's own"
    assert run.outcome is Outcome.SUCCEEDED


@story
async def test_codes_signals_and_missing_commands_are_told_as_without_a_sandbox(any_house: House) -> None:
    house = any_house
    async with house.running() as service:
        plain = await done(service, house.send(service, "exit 7"))
        killed = await done(service, house.send(service, python("import os; os.kill(os.getpid(), 11)")))
        missing = await done(service, house.send(service, ("no-such-program",)))
        (first,), (second,), (third,) = (service.store.attempts(run.id) for run in (plain, killed, missing))
        log = service.shown.log_chunk(missing.id, 0, 0, MIB).data.decode()
    assert (first.exit_code, first.reason) == (7, Reason.EXITED)
    assert (second.signal, second.reason) == (signal.SIGSEGV, Reason.SIGNALLED)
    assert (third.exit_code, log) == (127, "pushtrain: command not found: no-such-program\n")


@story
async def test_a_sandbox_that_cannot_be_entered_is_no_failure_of_the_command(tmp_path: Path) -> None:
    house = at(House(tmp_path), "sandbox")
    whole = house.sandbox.enclose

    def broken(cage: Any) -> Any:
        enclosure = whole(cage)
        at_mounts = enclosure.prefix.index("--proc")
        prefix = (
            *enclosure.prefix[:at_mounts],
            "--bind",
            "/nowhere",
            "/nowhere",
            *enclosure.prefix[at_mounts:],
        )
        return enclosure.model_copy(update={"prefix": prefix})

    house.sandbox.enclose = broken  # type: ignore[method-assign]
    run, log = await ran(house, "echo never")
    assert (run.outcome, run.reason) == (Outcome.FAILED, Reason.INTERNAL)
    assert "could not be entered" in run.detail
    assert "nowhere" in log


@story
async def test_a_run_over_its_memory_is_published_with_the_reason_oom(house: House) -> None:
    rules = house.settings.rules.model_copy(update={"limits": Limits(memory=120 * MIB)})
    house.settings = house.settings.model_copy(update={"rules": rules})
    hog = "x = bytearray(400 << 20); x[::4096] = b'x' * (100 << 10); import time; time.sleep(60)"
    run, _ = await ran(house, python(hog))
    assert (run.outcome, run.reason) == (Outcome.FAILED, Reason.OOM)
    assert "rules.limits.memory" in house.result(run, "README.md")


@story
async def test_a_job_that_asks_for_more_than_the_level_is_refused_at_the_door(tmp_path: Path) -> None:
    house = at(House(tmp_path), "confined")
    async with house.running() as service:
        with pytest.raises(ConfigError, match="isolates jobs by `confined`; the job asks for `sandbox`"):
            house.send(service, "true", min_isolation=Isolation.SANDBOX)


@story
async def test_a_program_of_the_system_is_found_though_our_own_python_is_out_of_reach(house: House) -> None:
    house.environments = {"system": Nothing()}
    run, log = await ran(house, ("echo", "found"), env={"PATH": "/usr/bin:/bin"})
    assert (run.outcome, log) == (Outcome.SUCCEEDED, "found\n"), log


class Nothing(Bare):
    """No environment at all: only what the system has."""

    def activate(self, tree: Path, spec: object, root: Path, overlay: Path, builder: object) -> Activation:
        return Activation()


@pytest.mark.slow
@story
async def test_what_packages_have_run_at_every_start_runs_inside_while_bytecode_is_made(
    tmp_path: Path,
) -> None:
    house = at(House(tmp_path), "sandbox")
    root, stolen = tmp_path / "state" / "environments" / "env", tmp_path / "stolen"
    venv.create(root, symlinks=True)
    packages = next(root.glob("lib/python3.*/site-packages"))
    (packages / "evil.pth").write_text(f"import os; open({str(stolen)!r}, 'w')\n")
    (packages / "module.py").write_text("x = 1\n")
    cage = compiling_cage(root, root / "bin/python", house.state, network=JobNetwork.NONE)
    compiler = Compiler()
    compiler.want(root, root / "bin/python", house.sandbox.enclose(cage))
    await eventually(lambda: (root / MARK).exists() or None, 30)
    compiler.close()
    assert list(packages.glob("__pycache__/module.*.pyc"))
    assert not stolen.exists()


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder outside in which whoever runs a sandbox could leave something, whatever user that is."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o777)
        yield Path(name)


def traces(folder: Path) -> list[Path]:
    return list(folder.iterdir())


@story
async def test_a_jobs_variables_reach_nothing_that_runs_outside(house: House, open_to_all: Path) -> None:
    traced = {"LD_DEBUG": "all", "LD_DEBUG_OUTPUT": str(open_to_all / "trace"), "LD_PRELOAD": "./evil.so"}
    run, log = await ran(house, ("true",), env=traced)
    assert run.outcome is Outcome.SUCCEEDED, log
    assert traces(open_to_all) == [], "the loader of a program outside obeyed the job"


API = """
import os, sys
import pushtrain
assert "shown/python" in pushtrain.__file__, pushtrain.__file__
at = pushtrain.checkpoint_dir / "step"
if pushtrain.resuming:
    print("went on from", at.read_text())
    sys.exit(0)
pushtrain.should_stop()
pushtrain.log(step=1, loss=2)
print("ready", flush=True)
while not pushtrain.should_stop():
    pass
at.write_text("7")
try:
    os.unlink(os.environ["PUSHTRAIN_STOP_FILE"])
except OSError:
    print("read only")
pushtrain.checkpointed()
"""


@pytest.mark.slow
@story
async def test_a_job_finds_the_api_without_installing_it_is_asked_to_stop_and_goes_on(
    any_house: House,
) -> None:
    house = any_house
    house.commit({"train.py": API})
    async with house.running() as service:
        run = house.send(service, ("/usr/bin/python3", "train.py"))
        await logged(service, run, "ready")
        service.preempt(run.id, reason=Reason.PREEMPTED, detail="the owner is back", grace=20)
        run = await done(service, run)
        first, second = service.store.attempts(run.id)
        assert (run.outcome, first.reason) == (Outcome.SUCCEEDED, Reason.CHECKPOINTED)
        assert service.shown.log_chunk(run.id, 2, 0, MIB).data == b"went on from 7\n"
        if house.sandbox.level not in {"none", "user"}:
            assert b"read only" in service.shown.log_chunk(run.id, 1, 0, MIB).data
    assert second.exit_code == 0
