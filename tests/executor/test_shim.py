import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.values.states import Reason, Stage
from pushtrain.executor.runs import launch
from pushtrain.plumbing.attempts.log import read_ends
from pushtrain.plumbing.attempts.records import Orders, SetupStep, StopOrder, Verdict, write_record
from pushtrain.plumbing.attempts.rundir import RunDir, held
from pushtrain.plumbing.attempts.terse import to_json
from pushtrain.plumbing.programs import proc

MIB = 1024 * 1024
Start = Callable[..., "Attempt"]


class Attempt:
    """A shim under test."""

    def __init__(self, folder: RunDir, process_: launch.Process) -> None:
        self.folder = folder
        self.shim = process_

    def verdict(self, seconds: float = 30) -> Verdict:
        descriptor = launch.watch(self.shim)
        if descriptor is not None:
            os.close(descriptor)
            assert proc.ended_within(self.shim.pid, seconds), "the shim did not end"
        launch.bury(self.shim)
        found = self.folder.read_verdict()
        assert found is not None, self.log
        return found

    @property
    def log(self) -> str:
        return self.folder.log.read_text(errors="replace")

    def until(self, text: str, seconds: float = 20) -> None:
        """Wait until the job has written this."""
        deadline = time.monotonic() + seconds
        while not self.folder.log.exists() or text not in self.log:
            assert time.monotonic() < deadline, self.log
            os.sched_yield()

    def stop(
        self, reason: Reason = Reason.CANCELLED, detail: str = "by test", grace: float | None = None
    ) -> None:
        assert launch.stop(self.folder, self.shim, StopOrder(reason=reason, detail=detail, grace=grace))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch.compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def start(tmp_path: Path, compiled: Path) -> Iterator[Start]:
    """Start a shim on a bash script (or an argv); every one is ended with the test."""
    begun: list[Attempt] = []

    def begin(command: str | tuple[str, ...], **changes: Any) -> Attempt:
        folder = RunDir.of(tmp_path, "run", len(begun) + 1).create()
        folder.tree.mkdir()
        orders = Orders(
            argv=("bash", "-eo", "pipefail", "-c", command) if isinstance(command, str) else command,
            shell=isinstance(command, str),
            env={"PATH": os.environ["PATH"], proc.ATTEMPT_MARK: f"shim-{tmp_path}-{len(begun)}"},
            cwd=str(folder.tree),
            log_limit=64 * MIB,
            timeout=60,
            setup_timeout=60,
            grace=5,
        )
        begun.append(
            Attempt(folder, launch.start(folder, orders.model_copy(update=changes), compiled)),
        )
        return begun[-1]

    yield begin
    for number, attempt in enumerate(begun):
        proc.send(attempt.shim.pid, attempt.shim.start, signal.SIGKILL)
        launch.bury(attempt.shim)
        launch.clear_up(attempt.folder, f"shim-{tmp_path}-{number}")


def python(script: str, *more: str) -> tuple[str, ...]:
    return (sys.executable, "-c", script, *more)


def gone(pid: int) -> bool:
    found = proc.stat(pid)
    return found is None or found.state in "ZX"


def test_a_command_runs_in_its_folder_and_its_output_is_the_log(start: Start) -> None:
    attempt = start("pwd; echo to stderr >&2")
    verdict = attempt.verdict()
    assert (verdict.reason, verdict.code, verdict.signal, verdict.phase) == (Reason.EXITED, 0, None, "train")
    assert attempt.log == f"{attempt.folder.tree}\nto stderr\n"
    assert verdict.log_size == len(attempt.log)
    assert [stage.stage for stage in verdict.stages] == [Stage.TRAIN]
    assert verdict.started_at is not None
    assert verdict.started_at <= verdict.ended_at


def test_an_exit_code_is_told_as_it_is(start: Start) -> None:
    verdict = start("exit 7").verdict()
    assert (verdict.reason, verdict.code) == (Reason.EXITED, 7)


def test_an_end_by_signal_is_told_as_a_signal(start: Start) -> None:
    verdict = start("kill -SEGV $$").verdict()
    assert (verdict.reason, verdict.code, verdict.signal) == (Reason.SIGNALLED, None, signal.SIGSEGV)
    assert not verdict.oom


def test_a_pipe_that_fails_in_the_middle_fails_the_command(start: Start) -> None:
    assert start("false | cat").verdict().code == 1


def test_a_command_that_is_not_there_is_127_with_a_clear_line(start: Start) -> None:
    attempt = start(("no-such-training-program",))
    assert attempt.verdict().code == 127
    assert attempt.log == "pushtrain: command not found: no-such-training-program\n"


def test_a_file_that_is_not_executable_is_126(start: Start, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("print()")
    attempt = start((str(script),))
    assert attempt.verdict().code == 126
    assert attempt.log == f"pushtrain: {script} cannot be executed: Permission denied\n"


def test_a_missing_interpreter_is_told_apart_from_a_missing_command(start: Start, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("#!/no/such/python\n")
    script.chmod(0o755)
    attempt = start((str(script),))
    assert attempt.verdict().code == 127
    assert "names an interpreter that does not exist" in attempt.log


def test_a_work_folder_that_is_gone_is_told(start: Start, tmp_path: Path) -> None:
    attempt = start("true", cwd=str(tmp_path / "nowhere"))
    assert attempt.verdict().code == 126
    assert f"the work folder {tmp_path / 'nowhere'} cannot be entered" in attempt.log


def test_the_job_has_three_descriptors_and_none_of_them_is_the_lock(start: Start) -> None:
    script = (
        "import os\n"
        "for fd in sorted(map(int, os.listdir('/proc/self/fd'))):\n"
        "    try: print(fd, os.readlink(f'/proc/self/fd/{fd}'))\n"
        "    except FileNotFoundError: pass\n"
    )
    leaky = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(leaky, True)
    try:
        attempt = start(python(script))
        attempt.verdict()
    finally:
        os.close(leaky)
    nothing, out, err = attempt.log.splitlines()
    assert nothing == "0 /dev/null"
    assert out.startswith("1 pipe:"), "with the log itself it could take back what it said"
    assert err.split()[1] == out.split()[1]


def test_the_job_has_exactly_the_environment_of_its_orders(start: Start) -> None:
    attempt = start(("env",), env={"PATH": os.environ["PATH"], "GREETING": "grüß dich\nworld"})
    attempt.verdict()
    assert set(attempt.log.splitlines()) == {f"PATH={os.environ['PATH']}", "GREETING=grüß dich", "world"}


def test_the_job_starts_with_clean_signals_in_a_session_of_its_own(start: Start) -> None:
    attempt = start(("cat", "/proc/self/status", "/proc/self/stat"))
    attempt.verdict()
    fields = dict(line.split(":\t") for line in attempt.log.splitlines() if ":\t" in line)
    assert int(fields["SigBlk"], 16) == 0
    c_library = 0b11 << 31  # signals 32 and 33, which nobody else can set
    assert int(fields["SigIgn"], 16) & ~c_library == 0
    numbers = attempt.log.splitlines()[-1].split()
    assert numbers[0] == numbers[5]


def test_the_job_is_the_first_to_go_when_memory_runs_out(start: Start) -> None:
    attempt = start(("cat", "/proc/self/oom_score_adj"))
    attempt.verdict()
    assert attempt.log == "500\n"
    assert Path(f"/proc/{os.getpid()}/oom_score_adj").read_text() != "500\n"


def test_setup_commands_run_first_and_head_their_output(start: Start) -> None:
    steps = tuple(
        SetupStep(title=line, argv=("bash", "-eo", "pipefail", "-c", line))
        for line in ("echo one > made", "cat made")
    )
    attempt = start("echo trained", setup=steps)
    verdict = attempt.verdict()
    assert attempt.log.splitlines() == [
        "pushtrain: setup 1 of 2: echo one > made",
        "pushtrain: setup 2 of 2: cat made",
        "one",
        "pushtrain: training",
        "trained",
    ]
    assert [stage.stage for stage in verdict.stages] == [Stage.SETUP, Stage.TRAIN]


def test_a_setup_command_that_fails_ends_the_attempt_before_training(start: Start) -> None:
    step = SetupStep(title="exit 4", argv=("bash", "-c", "exit 4"))
    attempt = start("echo trained", setup=(step,))
    verdict = attempt.verdict()
    assert (verdict.phase, verdict.reason, verdict.code) == ("setup", Reason.SETUP, 4)
    assert (verdict.detail, verdict.started_at) == ("exit 4", None)
    assert "trained" not in attempt.log


def test_the_timeout_counts_from_the_training_not_from_the_setup(start: Start) -> None:
    step = SetupStep(title="wait", argv=("bash", "-c", "sleep 0.6"))
    verdict = start("sleep 0.2", setup=(step,), timeout=0.5).verdict()
    assert (verdict.reason, verdict.code) == (Reason.EXITED, 0)


def test_a_timeout_ends_the_training(start: Start) -> None:
    verdict = start("sleep 60", timeout=0.3).verdict()
    assert (verdict.reason, verdict.phase, verdict.signal) == (Reason.TIMEOUT, "train", signal.SIGTERM)


def test_setup_has_a_limit_of_its_own(start: Start) -> None:
    step = SetupStep(title="hang", argv=("bash", "-c", "sleep 60"))
    verdict = start("true", setup=(step,), setup_timeout=0.3).verdict()
    assert (verdict.reason, verdict.phase) == (Reason.TIMEOUT, "setup")


def test_a_stop_is_polite_first_and_its_reason_is_kept(start: Start) -> None:
    script = (
        "import os, signal, sys, time\n"
        "def bye(*_): print('saved', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, bye); os.write(1, b'ready\\n')\n"  # print takes no print in between
        "while True: signal.pause()\n"
    )
    attempt = start(python(script))
    attempt.until("ready")
    attempt.stop(Reason.CANCELLED, "ada asked")
    verdict = attempt.verdict()
    assert (verdict.reason, verdict.detail, verdict.code) == (Reason.CANCELLED, "ada asked", 0)
    assert attempt.log == "ready\nsaved\n"


def test_a_stop_reaches_what_a_shell_runs_and_waits_for_it(start: Start) -> None:
    script = (
        "import os, signal, sys, time\n"
        "def bye(*_): time.sleep(0.2); print('saved', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, bye); os.write(1, b'ready\\n')\n"
        "while True: signal.pause()\n"
    )
    attempt = start(f"""{sys.executable} -c "{script}"; echo never""")
    attempt.until("ready")
    attempt.stop()
    assert attempt.verdict().reason is Reason.CANCELLED
    assert attempt.log == "ready\nsaved\n"


def test_a_stop_leaves_the_helpers_of_a_program_to_the_program(start: Start) -> None:
    script = (
        "import os, signal, sys\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.signal(signal.SIGTERM, lambda *_: print('worker hit', flush=True))\n"
        "    while True: signal.pause()\n"
        "def bye(*_): print('saved', flush=True); os.kill(child, 9); os.wait(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, bye); os.write(1, b'ready\\n')\n"
        "while True: signal.pause()\n"
    )
    attempt = start(f'exec {sys.executable} -c "{script}"')
    attempt.until("ready")
    attempt.stop()
    attempt.verdict()
    assert attempt.log == "ready\nsaved\n"


def test_what_ignores_the_polite_signal_is_killed_after_the_grace(start: Start) -> None:
    script = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready', flush=True)\nwhile True: signal.pause()"
    )
    attempt = start(python(script), grace=0.2)
    attempt.until("ready")
    attempt.stop()
    verdict = attempt.verdict(5)
    assert (verdict.reason, verdict.signal) == (Reason.CANCELLED, signal.SIGKILL)


SAVES = (
    "import os, signal, sys\n"
    "def save(*_): print('saved', os.path.exists(os.environ['STOP']), flush=True); {then}\n"
    "signal.signal(signal.{name}, save); os.write(1, b'ready\\n')\n"
    "while True: signal.pause()\n"
)


def saving(start: Start, tmp_path: Path, name: str = "SIGUSR2", then: str = "sys.exit(85)") -> Attempt:
    """A command that saves when it is preempted."""
    stop = tmp_path / "stop"
    attempt = start(
        python(SAVES.format(name=name, then=then)),
        preempt_signal=getattr(signal, name),
        stop_file=str(stop),
        env={"STOP": str(stop)},
    )
    attempt.until("ready")
    return attempt


def test_preempted_a_command_gets_its_own_signal_and_finds_the_stop_file(
    start: Start, tmp_path: Path
) -> None:
    attempt = saving(start, tmp_path)
    before = time.time()
    attempt.stop(Reason.PREEMPTED, "the owner is back", grace=20)
    verdict = attempt.verdict()
    assert (verdict.reason, verdict.detail, verdict.code) == (Reason.PREEMPTED, "the owner is back", 85)
    assert attempt.log == "ready\nsaved True\n"
    order = json.loads((tmp_path / "stop").read_text())
    assert order["reason"] == "preempted"
    assert before + 19 < order["until"] < time.time() + 20
    assert (tmp_path / "stop").stat().st_mode & 0o777 == 0o644


def test_preempted_with_no_grace_the_tree_is_killed_at_once(start: Start, tmp_path: Path) -> None:
    attempt = saving(start, tmp_path, then="signal.pause()")
    begin = time.monotonic()
    attempt.stop(Reason.PREEMPTED, grace=0)
    verdict = attempt.verdict()
    assert (verdict.reason, verdict.signal) == (Reason.PREEMPTED, signal.SIGKILL)
    assert time.monotonic() - begin < 1


def test_without_a_preempt_signal_the_stop_file_alone_asks(start: Start, tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    script = (
        "import os, sys, time\nprint('ready', flush=True)\n"
        "while not os.path.exists(sys.argv[1]): time.sleep(0.01)\nsys.exit(85)"
    )
    attempt = start(python(script, str(stop)), preempt_signal=0, stop_file=str(stop))
    attempt.until("ready")
    attempt.stop(Reason.PREEMPTED, grace=20)
    verdict = attempt.verdict()
    assert (verdict.reason, verdict.code) == (Reason.PREEMPTED, 85)


def test_who_cancels_during_the_grace_wins_and_is_told_to_the_command(start: Start, tmp_path: Path) -> None:
    attempt = saving(start, tmp_path, then="print('busy', flush=True)")
    attempt.stop(Reason.PREEMPTED, "the owner is back", grace=600)
    attempt.until("busy")
    attempt.stop(Reason.CANCELLED, "ada asked", grace=600)
    verdict = attempt.verdict()  # the SIGTERM of a cancel is nothing that it handles
    assert (verdict.reason, verdict.detail, verdict.signal) == (Reason.CANCELLED, "ada asked", signal.SIGTERM)
    assert json.loads((tmp_path / "stop").read_text())["reason"] == "cancelled"


def test_a_second_order_can_shorten_the_grace_and_never_lengthen_it(start: Start, tmp_path: Path) -> None:
    attempt = saving(start, tmp_path, then="print('busy', flush=True)")
    attempt.stop(Reason.PREEMPTED, grace=600)
    attempt.until("busy")
    attempt.stop(Reason.PREEMPTED, grace=900)
    assert attempt.folder.read_stop() == StopOrder(reason=Reason.PREEMPTED, detail="by test", grace=600)
    attempt.stop(Reason.PREEMPTED, grace=0)
    assert attempt.verdict(5).reason is Reason.PREEMPTED
    assert attempt.log.count("saved") == 1, "the same signal again would hit it while it saves"


def test_a_machine_that_shuts_down_has_cancelled_nothing(start: Start, tmp_path: Path) -> None:
    attempt = saving(start, tmp_path, name="SIGTERM")
    proc.send(attempt.shim.pid, attempt.shim.start, signal.SIGTERM)  # as systemd does
    verdict = attempt.verdict()
    assert (verdict.reason, verdict.code) == (Reason.INTERRUPTED, 85)


def test_a_stop_order_before_the_command_runs_is_not_lost(start: Start) -> None:
    attempt = start("sleep 60", grace=0)
    attempt.stop()
    assert attempt.verdict(5).reason is Reason.CANCELLED


@pytest.mark.parametrize("ending", ["exit 0", "sleep 60"])
def test_a_double_forked_survivor_dies_with_the_attempt(start: Start, ending: str) -> None:
    survivor = "(setsid bash -c 'trap \"\" TERM HUP; echo pid $$; touch up; while :; do sleep 1; done' &) ; "
    attempt = start(f"{survivor} until [ -e up ]; do :; done; {ending}")
    attempt.until("pid ")
    if ending != "exit 0":
        attempt.stop()
    assert attempt.verdict(15).reason in {Reason.EXITED, Reason.CANCELLED}
    assert gone(int(attempt.log.split()[1]))


def test_the_command_dies_when_the_shim_is_killed_and_the_lock_is_free(start: Start) -> None:
    attempt = start(("bash", "-c", "echo pid $$; sleep 60 & setsid sleep 61 & wait"))
    attempt.until("pid ")
    command = int(attempt.log.split()[1])
    deadline = time.monotonic() + 10
    while len(proc.descendants(command)) < 2:
        assert time.monotonic() < deadline
    below = proc.descendants(command)
    assert held(attempt.folder.lock)
    proc.send(attempt.shim.pid, attempt.shim.start, signal.SIGKILL)
    launch.bury(attempt.shim)
    assert not held(attempt.folder.lock)
    mark = f"shim-{attempt.folder.root.parent.parent}-0"
    launch.clear_up(attempt.folder, mark)
    assert gone(command)
    assert all(gone(pid) for pid in below)
    assert attempt.folder.read_verdict() is None


def test_a_shim_that_lives_is_found_whatever_the_boot_id_says_and_a_reused_pid_is_not_it(
    start: Start,
) -> None:
    attempt = start("echo ready; sleep 60")
    attempt.until("ready")
    started = attempt.folder.read_started()
    assert started is not None
    write_record(attempt.folder.started, started.model_copy(update={"boot": "another"}))
    assert launch.find(attempt.folder) == attempt.shim
    write_record(attempt.folder.started, started.model_copy(update={"start": started.start + 1}))
    other = launch.find(attempt.folder)
    assert other is not None
    assert launch.watch(other) is None


def test_nobody_is_killed_whose_pid_a_dead_job_had_before_the_machine_was_restarted(start: Start) -> None:
    attempt = start("true")
    attempt.verdict()
    stranger = subprocess.Popen(["sleep", "100"], start_new_session=True)
    try:
        began = proc.start_time(stranger.pid)
        started = attempt.folder.read_started()
        assert started is not None
        assert began is not None
        as_was = {"boot": "another", "command_pid": stranger.pid, "command_start": began}
        write_record(attempt.folder.started, started.model_copy(update=as_was))
        assert launch.clear_up(attempt.folder, "no such mark") == 0
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_started_is_written_before_the_jobs_first_statement(start: Start) -> None:
    attempt = start("cat ../../started.json; echo; echo $$")
    attempt.verdict()
    record, pid = attempt.log.splitlines()
    assert json.loads(record)["command_pid"] == int(pid)
    started = attempt.folder.read_started()
    assert started is not None
    assert (started.pid, started.boot) == (attempt.shim.pid, proc.boot_id())
    assert started.phase == "train"


def test_the_lock_is_held_for_the_shims_life_only(start: Start) -> None:
    attempt = start("echo ready; sleep 60")
    attempt.until("ready")
    assert held(attempt.folder.lock)
    with pytest.raises(Exception, match="already running"):
        launch.start(attempt.folder, Orders.model_validate_json(attempt.folder.spec.read_bytes()), Path("x"))
    attempt.stop()
    attempt.verdict()
    assert not held(attempt.folder.lock)


@pytest.mark.parametrize("after", [100, 3_000, 10_000, 30_000])
def test_all_that_a_job_had_said_when_its_shim_was_killed_is_in_the_log(
    start: Start, tmp_path: Path, after: int
) -> None:
    script = (
        "import os, sys\n"
        "told = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)\n"
        "for number in range(10_000_000):\n"
        "    os.write(1, b'%d\\n' % number); os.pwrite(told, b'%d\\n' % number, 0)\n"
    )
    (tmp_path / "talk.py").write_text(script)
    said = tmp_path / "said"
    attempt = start(f"exec {sys.executable} {tmp_path}/talk.py {said}")
    attempt.until(f"\n{after}\n")
    proc.send(attempt.shim.pid, attempt.shim.start, signal.SIGKILL)
    launch.bury(attempt.shim)
    launch.settle(attempt.folder)
    lines = attempt.log.splitlines()
    assert lines == list(map(str, range(len(lines))))
    assert len(lines) > int(said.read_text())


def test_what_is_said_is_never_in_the_shims_hands_alone(tmp_path: Path) -> None:
    """The kernel moves it from pipe to log: a kill between reading and writing would lose it."""
    script = (
        "import os\n"
        "from pushtrain.plumbing.attempts import tape\n"
        "log = tape.Tape()\n"
        "def read(*_): raise SystemExit('it is read')\n"
        "tape.os.read = read\n"
        "os.write(log.given, b'first\\n'); log.copy()\n"
        "log.append(b'pushtrain: ours\\n')\n"
        "os.write(log.given, b'second\\n'); log.copy()\n"
    )
    log = tmp_path / "log.txt"
    with log.open("ab") as out:
        subprocess.run((sys.executable, "-c", script), stdout=out, check=True)
    assert log.read_text() == "first\npushtrain: ours\nsecond\n"


def test_use_of_the_processor_and_of_memory_is_counted(start: Start) -> None:
    script = "x = bytearray(60_000_000); sum(range(4_000_000))"
    verdict = start(f'{sys.executable} -c "{script}"; true').verdict()
    assert verdict.cpu_seconds > 0.05
    assert verdict.max_rss > 60_000_000


def test_what_is_written_to_the_disk_is_counted(start: Start, tmp_path: Path) -> None:
    verdict = start(f"dd if=/dev/zero of={tmp_path}/big bs=1M count=3 conv=fsync 2>&1").verdict()
    assert verdict.disk_written >= 3 * 1024**2
    assert verdict.disk_read < 1024**3


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_the_shim_writes_is_json(value: object) -> None:
    assert json.loads(to_json(value)) == value


def test_the_shims_imports_are_few(compiled: Path, tmp_path: Path) -> None:
    folder = RunDir.of(tmp_path, "few", 1).create()
    folder.tree.mkdir()
    orders = Orders(
        argv=("true",), env={"PATH": os.environ["PATH"]}, cwd=str(folder.tree),
        log_limit=MIB, timeout=60, setup_timeout=60, grace=0,
    )  # fmt: skip
    folder.spec.write_text(orders.model_dump_json())
    argv = (sys.executable, "-I", "-S", "-X", "importtime", compiled, folder.spec, "0")
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stderr
    verdict = folder.read_verdict()
    assert verdict is not None
    assert verdict.code == 0
    loaded = {line.rpartition("|")[2].strip() for line in told.splitlines()}
    assert {"_ctypes", "confine"} <= loaded
    assert not {"re", "enum", "json", "signal", "subprocess", "typing", "pathlib"} & loaded
    assert not [name for name in loaded if name.startswith("pushtrain")]


@pytest.mark.parametrize("text", ["{}", "", '{"setup": []}'])
def test_orders_that_cannot_be_read_still_end_in_a_verdict(compiled: Path, tmp_path: Path, text: str) -> None:
    folder = RunDir.of(tmp_path, "bad", 1).create()
    folder.spec.write_text(text)
    subprocess.run([sys.executable, "-I", "-S", compiled, folder.spec, "0"], capture_output=True, check=False)
    verdict = folder.read_verdict()
    assert verdict is not None
    assert verdict.reason is Reason.INTERNAL
    assert "The shim failed" in verdict.detail


def test_an_attempt_that_a_machine_without_means_cannot_begin_is_lost_and_not_failed(
    compiled: Path, tmp_path: Path
) -> None:
    """So many descriptors as let the shim come up, and not start its command."""
    for most in range(6, 20):
        folder = RunDir.of(tmp_path, f"few-{most}", 1).create()
        folder.tree.mkdir()
        orders = Orders(
            argv=("true",), env={"PATH": os.environ["PATH"]}, cwd=str(folder.tree),
            log_limit=MIB, timeout=60, setup_timeout=60, grace=0,
        )  # fmt: skip
        folder.spec.write_text(orders.model_dump_json())
        limited = ("prlimit", f"--nofile={most}", sys.executable, "-I", "-S", compiled, folder.spec, "0")
        subprocess.run(limited, capture_output=True, check=False)
        verdict = folder.read_verdict()
        if verdict is not None:
            break
    assert verdict is not None
    assert "Too many open files" in verdict.detail
    assert verdict.reason is Reason.LOST


def test_a_log_over_its_limit_keeps_head_tail_and_every_offset(start: Start) -> None:
    script = "import sys\nfor i in range(120_000): sys.stdout.write(f'{i:099d}\\n')"
    attempt = start(python(script), log_limit=MIB)
    verdict = attempt.verdict()
    assert verdict.log_size == 12_000_000
    assert verdict.elided is not None
    begin, end = verdict.elided
    assert begin <= MIB // 2 + 65536
    assert end >= 12_000_000 - MIB // 2 - 65536
    assert attempt.folder.log.stat().st_blocks * 512 <= MIB + 3 * 65536
    ends = read_ends(attempt.folder.log, 4000)
    assert ends.head.startswith(b"0" * 99 + b"\n")
    assert ends.tail.endswith(f"{119_999:099d}\n".encode())
    assert len(ends.head) + len(ends.tail) + ends.missing == ends.size == 12_000_000


@pytest.mark.slow
def test_disk_use_stays_bounded_while_a_job_floods_its_log(start: Start) -> None:
    attempt = start(("bash", "-c", "head -c 1500M /dev/zero; echo end"), log_limit=4 * MIB)
    most = 0
    while launch.find(attempt.folder) is None or proc.alive(attempt.shim.pid, attempt.shim.start):
        if attempt.folder.log.exists():
            most = max(most, attempt.folder.log.stat().st_blocks * 512)
    verdict = attempt.verdict()
    assert verdict.log_size == 1500 * MIB + 4
    assert attempt.folder.log.stat().st_blocks * 512 <= 5 * MIB
    assert most < 16 * MIB


@pytest.mark.slow
def test_a_million_lines_are_complete_to_the_byte(start: Start) -> None:
    script = "import sys\nfor i in range(1_000_000): sys.stdout.write(f'{i:099d}\\n')"
    attempt = start(python(script), log_limit=128 * MIB)
    verdict = attempt.verdict(60)
    assert (verdict.log_size, verdict.elided) == (100_000_000, None)
    data = attempt.folder.log.read_bytes()
    assert data == b"".join(b"%099d\n" % i for i in range(1_000_000))
