import errno
import json
import os
import stat
import sys
import threading
import time
import venv
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from executor_house import Bare, House

from pushtrain.core.errors import BuildError, Cancelled, Forbidden, GitError, NeedsCode
from pushtrain.core.owner.rules import Rules
from pushtrain.core.values.isolation import Isolation
from pushtrain.core.values.jobspec import EnvironmentSpec
from pushtrain.core.values.run import Progress, Run
from pushtrain.core.values.states import Reason, Stage
from pushtrain.executor.owner.meter import Meter
from pushtrain.executor.rulebook import Rulebook
from pushtrain.executor.runs.blame import PreparationError
from pushtrain.executor.runs.bytecode import MARK, Compiler
from pushtrain.executor.runs.preflight import ask_torch
from pushtrain.executor.runs.prepare import Preparation
from pushtrain.executor.runs.variables import attempt_mark, job_environment
from pushtrain.executor.runs.vault import Vault
from pushtrain.executor.runs.workshop import Workshop
from pushtrain.plumbing.attempts.records import Orders
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.data.ledger import Ledger
from pushtrain.plumbing.disk.cache import Cache
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.housekeeping.holdings import Holdings
from pushtrain.plumbing.housekeeping.upkeep import upkeep_of
from pushtrain.plumbing.keys.sealing import sealing_key
from pushtrain.plumbing.machine.energy import EnergyDay
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.ports import Activation, Builder, Enclosure, Environment, Recipe
from pushtrain.testing import REPOSITORY, a_command, a_gpu, a_run, a_spec, an_attempt, wait_until
from spoilt import spoil

DOCS = Path(__file__).parents[2] / "docs"


@dataclass
class Kind:
    """An environment that writes down what is asked of it."""

    key: str = "cafe"
    applies: bool = True
    locked: bool = True
    fails: str = ""
    built: list[Path] = field(default_factory=list)
    waits_for: threading.Event | None = None

    def plan(self, tree: Path, spec: EnvironmentSpec) -> Recipe | None:
        assert (tree.is_dir(), spec.python) == (True, "")
        return Recipe(self.key, "kind 1.0", locked=self.locked) if self.applies else None

    def build(self, tree: Path, spec: EnvironmentSpec, into: Path, builder: Builder) -> None:
        assert (tree.is_dir(), spec.python) == (True, "")
        builder.report("half way", 1, 2)
        while self.waits_for is not None and not self.waits_for.wait(0.01):
            builder.stop()
        if self.fails:
            raise BuildError(self.fails, mend="Mend it.")
        self.built.append(into)
        (into / "bin").mkdir()
        (into / "bin" / "tool").write_text("tool")

    def activate(
        self, tree: Path, spec: EnvironmentSpec, root: Path, overlay: Path, builder: Builder
    ) -> Activation:
        assert (tree.is_dir(), overlay.is_dir(), spec.python) == (True, True, "")
        return Activation({"KIND": str(root)}, (root / "bin",))


class Bench:
    """One attempt to prepare, on a real repository."""

    def __init__(self, tmp_path: Path, environments: Mapping[str, Environment] | None = None) -> None:
        self.house = House(tmp_path)
        self.house.state.create()
        remote = self.house.settings.repositories[0]
        self.progress: list[Progress] = []
        self.cancelled = threading.Event()
        state = self.house.state
        data, built = Cache(state.data), Cache(state.environments)
        store = Store(state.store)
        holdings = Holdings(state, store, data, built, shed=lambda: None, keep=0, clock=time.time)
        self.shop = Workshop(
            upkeep=upkeep_of(holdings, self.house.settings.executor),
            rulebook=Rulebook(Rules()),
            downloads=Ledger(self.house.state.downloads, 0),
            access=self.house.access,
            state=self.house.state,
            settings=self.house.settings.executor,
            mirrors=lambda _: Mirror(self.house.state.repositories, remote),
            environments={"system": Bare()} if environments is None else environments,
            data=data,
            built=built,
            vault=Vault(sealing_key(self.house.state.sealing_key)),
            meter=Meter(self.house.state.runs, EnergyDay(self.house.state.energy)),
            sandbox=self.house.sandbox,
            inherited={"PATH": os.environ["PATH"]},
        )
        self.number = 0

    def prepare(self, **changes: Any) -> tuple[Orders, Preparation, RunDir]:
        gpus = changes.pop("held", ())
        other = {"repository": changes.pop("repository")} if "repository" in changes else {}
        commit = changes.pop("commit", self.house.work.head())
        spec = a_spec(**{"command": "python train.py", **changes})
        self.number += 1
        command = a_command(commit=commit, job=spec, **other)
        run = a_run(command, attempt=self.number, token="t" * 32, gpus=gpus)
        folder = RunDir.of(self.house.state.runs, run.id, self.number).create()
        preparation = Preparation(run, folder, self.shop, progress=self.progress.append, stop=self.stop)
        return preparation.orders(), preparation, folder

    def stop(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled("enough")

    def fails(self, reason: Reason, **changes: Any) -> str:
        """Prepare, expect this to go wrong, and give the words; they are in the log, too."""
        with pytest.raises(PreparationError) as caught:
            self.prepare(**changes)
        assert caught.value.reason is reason
        logs = list(self.house.state.runs.glob(f"*/{self.number}/log.txt"))
        assert caught.value.detail in logs[0].read_text()
        return caught.value.detail


class Built(Kind):
    """An environment that takes somebody's code."""

    def build(self, tree: Path, spec: EnvironmentSpec, into: Path, builder: Builder) -> None:
        if not builder.code:
            raise NeedsCode("It has no wheel.")
        super().build(tree, spec, into, builder)
        (into / "cache").write_text(str(builder.cache))


def test_what_code_has_built_is_its_repositorys_own(tmp_path: Path) -> None:
    """Code could leave something in an environment, and in what it is built from, for another repository."""
    kind = Built()
    bench = Bench(tmp_path, {"uv": kind})
    for repository in (REPOSITORY, REPOSITORY, "github.com/octo/other"):
        bench.prepare(repository=repository)
    assert len(kind.built) == 2
    assert kind.built[0] != kind.built[1]
    assert len({(into / "cache").read_text() for into in kind.built}) == 2
    bench.prepare(repository="github.com/octo/other")
    assert len(kind.built) == 2, "the second time it is there"


def test_jobs_with_secrets_share_no_build_with_other_branches(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    builds = {
        bench.shop.builds(REPOSITORY),
        bench.shop.builds(REPOSITORY, apart="refs/heads/main"),
        bench.shop.builds(REPOSITORY, apart="refs/heads/else"),
    }
    assert len(builds) == 3


def test_what_took_no_code_is_everybodys(tmp_path: Path) -> None:
    kind = Kind()
    bench = Bench(tmp_path, {"uv": kind})
    for repository in (REPOSITORY, "github.com/octo/other"):
        bench.prepare(repository=repository)
    assert len(kind.built) == 1


def test_orders_hold_everything_that_the_shim_needs(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.house.commit({"sub/train.py": "print()"})
    orders, _, folder = bench.prepare(workdir="sub", setup=("make it",), timeout=90)
    assert orders.argv == ("bash", "-eo", "pipefail", "-c", "python train.py")
    assert orders.shell
    assert orders.setup[0].argv == ("bash", "-eo", "pipefail", "-c", "make it")
    assert orders.setup[0].title == "make it"
    assert orders.cwd == str(folder.tree / "sub")
    assert orders.timeout == 90
    assert (folder.tree / "sub" / "train.py").is_file()


def test_a_checkout_begins_again_where_another_run_has_made_the_mirror_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, real, tries = Bench(tmp_path), Mirror.checkout, []
    bench.house.commit({"train.py": "print()"})

    def checkout(mirror: Mirror, commit: str, into: Path, **more: Any) -> Any:
        tries.append(commit)
        if len(tries) == 1:
            into.mkdir()
            (into / "half").touch()
            mirror._set_aside()
            raise GitError("git could not cat-file: there is no such folder.")
        return real(mirror, commit, into, **more)

    monkeypatch.setattr(Mirror, "checkout", checkout)
    _, _, folder = bench.prepare()
    assert sorted(path.name for path in folder.tree.iterdir()) == ["README.md", "train.py"]
    assert len(tries) == 2


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EAGAIN, Reason.LOST),
        (errno.ENOMEM, Reason.LOST),
        (errno.EMFILE, Reason.LOST),
        (errno.ENOSPC, Reason.STORAGE),
        (errno.EACCES, Reason.CHECKOUT),
    ],
)
def test_a_machine_that_can_start_no_program_now_is_not_the_runs_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: Reason
) -> None:
    def fork(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    bench = Bench(tmp_path)
    monkeypatch.setattr("pushtrain.plumbing.programs.process.run", fork)
    with pytest.raises(PreparationError) as caught:
        bench.prepare()
    assert caught.value.reason is reason


def test_a_mirror_that_proves_damaged_at_the_checkout_is_made_anew(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    commit = bench.house.commit({"train.py": "print()"})
    bench.prepare()
    mirror = bench.shop.mirrors(REPOSITORY)
    mirror.pristine.forget()
    spoil(mirror, f"{commit}:train.py")
    _, _, folder = bench.prepare()
    assert (folder.tree / "train.py").read_text() == "print()"


@pytest.mark.parametrize("what", ["^{commit}", ":pushtrain.toml"])
def test_a_mirror_that_proves_damaged_when_the_rules_look_at_the_commit_is_made_anew(
    tmp_path: Path, what: str
) -> None:
    bench = Bench(tmp_path)
    commit = bench.house.commit({"pushtrain.toml": '[job.train]\ncommand = "python train.py"\n'})
    bench.shop = replace(bench.shop, rulebook=Rulebook(Rules(committed_jobs=True)))
    bench.prepare()
    spoil(bench.shop.mirrors(REPOSITORY), f"{commit}{what}")
    bench.prepare()


def test_a_list_is_executed_as_it_is(tmp_path: Path) -> None:
    orders, _, _ = Bench(tmp_path).prepare(command=("python", "-c", "x && y"))
    assert (orders.argv, orders.shell) == (("python", "-c", "x && y"), False)


def test_a_job_without_a_timeout_gets_the_owners_limit(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    most = bench.shop.rules.limits.time
    assert bench.prepare()[0].timeout == most
    assert bench.prepare(timeout=most)[0].timeout == most


def test_a_job_that_asks_for_more_than_the_owner_allows_by_now_is_not_prepared(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with pytest.raises(PreparationError, match=r"rules\.limits\.time") as caught:
        bench.prepare(timeout=bench.shop.rules.limits.time + 1)
    assert caught.value.reason is Reason.REFUSED


def test_stages_are_timed_and_told(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"uv": Kind()})
    _, preparation, _ = bench.prepare()
    attempt = preparation.told(an_attempt(number=1))
    assert [stage.stage for stage in attempt.stages] == [
        Stage.QUEUE,
        Stage.FETCH,
        Stage.CHECKOUT,
        Stage.ENVIRONMENT,
    ]
    assert attempt.stages[2].note == "1 file"
    assert attempt.environment == "kind 1.0, built"
    assert {progress.stage for progress in bench.progress} == {
        Stage.FETCH,
        Stage.CHECKOUT,
        Stage.ENVIRONMENT,
    }
    assert Progress(stage=Stage.ENVIRONMENT, text="half way", done=1, total=2) in bench.progress


def test_a_second_attempt_fetches_and_builds_nothing(tmp_path: Path) -> None:
    kind = Kind(locked=False)
    bench = Bench(tmp_path, {"uv": kind})
    bench.prepare()
    _, preparation, _ = bench.prepare()
    attempt = preparation.told(an_attempt(number=2))
    assert len(kind.built) == 1
    assert attempt.environment == "kind 1.0, cached, not pinned"
    assert [stage.note for stage in attempt.stages] == ["cached", "1 file", "cached"]


def test_auto_takes_the_first_kind_that_fits_and_a_named_kind_no_other(tmp_path: Path) -> None:
    kinds: dict[str, Environment] = {
        "uv": Kind(applies=False),
        "conda": Kind(key="c0"),
        "system": Kind(key="d0"),
    }
    bench = Bench(tmp_path, kinds)
    assert "conda-c0" in bench.prepare()[0].env["KIND"]
    assert "system-d0" in bench.prepare(environment={"kind": "system"})[0].env["KIND"]
    assert "nothing that a `uv` environment" in bench.fails(Reason.ENVIRONMENT, environment={"kind": "uv"})
    assert "builds no `named`" in bench.fails(Reason.ENVIRONMENT, environment={"kind": "named", "name": "x"})


def test_an_executor_without_environments_says_so(tmp_path: Path) -> None:
    detail = Bench(tmp_path, {"uv": Kind(applies=False)}).fails(Reason.ENVIRONMENT)
    assert detail.startswith("No way to build an environment fits this commit.")


def test_a_build_that_fails_keeps_the_tools_last_words(tmp_path: Path) -> None:
    detail = Bench(tmp_path, {"uv": Kind(fails="no such package: nmpy.")}).fails(Reason.ENVIRONMENT)
    assert detail == "no such package: nmpy. Mend it."


def test_a_commit_that_is_not_there_fails_the_checkout(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert "no commit" in bench.fails(Reason.CHECKOUT, commit="1" * 40)


def test_a_repository_that_is_not_served_fails_the_checkout(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    def refuse(key: str) -> Mirror:
        raise Forbidden(f"{key} is not served.")

    object.__setattr__(bench.shop, "mirrors", refuse)
    assert bench.fails(Reason.CHECKOUT) == "github.com/octo/hello is not served."


@pytest.mark.parametrize("workdir", ["missing", "..", "README.md", "out", "/"])
def test_a_workdir_that_is_no_folder_of_the_commit_is_refused(tmp_path: Path, workdir: str) -> None:
    bench = Bench(tmp_path)
    (bench.house.work.folder / "out").symlink_to("/")
    bench.house.commit({})
    assert repr(workdir) in bench.fails(Reason.CHECKOUT, workdir=workdir)


def test_a_workdir_may_be_a_link_within_the_commit(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (bench.house.work.folder / "there").symlink_to("real")
    bench.house.commit({"real/train.py": ""})
    orders, _, folder = bench.prepare(workdir="there")
    assert orders.cwd == str(folder.tree / "real")


def test_a_job_that_asks_for_more_isolation_than_there_is_now_is_refused(tmp_path: Path) -> None:
    told = Bench(tmp_path).fails(Reason.ISOLATION, min_isolation=Isolation.CONFINED)
    assert "asks for isolation `confined` at least, and this executor offers `none`" in told


def test_lent_folders_and_environment_come_together(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"uv": Kind()})
    lent = tmp_path / "lent"
    lent.mkdir()
    (lent / "x.csv").write_text("1,2")
    bench.shop.settings.mounts["numbers"] = str(lent)
    _, preparation, folder = bench.prepare(data=[{"mount": "numbers", "path": "data/numbers"}])
    assert (folder.tree / "data" / "numbers" / "x.csv").read_text() == "1,2"
    attempt = preparation.told(an_attempt(number=2))
    assert attempt.data[0].source.mount == "numbers"
    assert Stage.DATA in {stage.stage for stage in attempt.stages}


def test_data_that_cannot_be_had_ends_a_build_that_goes_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"uv": Kind(waits_for=threading.Event())})
    detail = bench.fails(Reason.DATA, data=[{"mount": "nowhere", "path": "data"}])
    assert "nowhere" in detail


def test_a_machine_that_cannot_even_ask_whose_fault_it_is_ends_a_build_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody had stopped it, so its run stood as being prepared for ever, with its cards."""

    def no_means(*_: object, **__: object) -> bool:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Mirror, "answers", no_means)
    bench = Bench(tmp_path, {"uv": Kind(waits_for=threading.Event())})
    assert "nowhere" in bench.fails(Reason.LOST, data=[{"mount": "nowhere", "path": "data"}])


def test_a_defect_in_fetching_data_ends_a_build_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: object, **__: object) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(Mirror, "answers", defect)
    bench = Bench(tmp_path, {"uv": Kind(waits_for=threading.Event())})
    with pytest.raises(ZeroDivisionError):
        bench.prepare(data=[{"mount": "nowhere", "path": "data"}])


def test_data_whose_place_is_taken_fails_as_data(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.shop.settings.mounts["numbers"] = str(tmp_path)
    bench.fails(Reason.DATA, data=[{"mount": "numbers", "path": "README.md"}])


def test_a_wish_to_stop_ends_a_build(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"uv": Kind(waits_for=threading.Event())})
    lent = tmp_path / "lent"
    lent.mkdir()
    bench.shop.settings.mounts["numbers"] = str(lent)
    timer = threading.Timer(0.2, bench.cancelled.set)
    timer.start()
    with pytest.raises(Cancelled):
        bench.prepare(data=[{"mount": "numbers", "path": "data"}])
    timer.join()


def test_caches_are_evicted_when_the_disk_is_nearly_full(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    old, _ = bench.shop.built.build("old", lambda into: (into / "x").touch())
    bench.shop.upkeep.floor = 2**62
    bench.prepare()
    assert not old.exists()


# --- variables --------------------------------------------------------------------------------------------


def a_job_environment(
    tmp_path: Path, inherited: Mapping[str, str] | None = None, **spec: Any
) -> dict[str, str]:
    run: Run = a_run(a_command(job=a_spec(**spec)), attempt=1, token="0123456789abcdef" * 2)
    return job_environment(
        run,
        RunDir.of(tmp_path, run.id, 1),
        caches=tmp_path / "caches",
        activation=Activation({"VIRTUAL_ENV": "/env", "HOME": "/activated"}, (Path("/env/bin"),)),
        gpus=("GPU-1", "GPU-2"),
        inherited={"PATH": "/usr/bin", "SECRET": "x"} if inherited is None else inherited,
    )


def test_every_variable_is_documented(tmp_path: Path) -> None:
    everything = dict.fromkeys(("PATH", "LANG", "TZ", "SSL_CERT_FILE", "http_proxy", "no_proxy"), "x")
    env = a_job_environment(tmp_path, everything)
    text = (DOCS / "environment-variables.md").read_text()
    missing = [name for name in env if f"`{name}`" not in text]
    assert not missing


def test_the_environment_comes_before_the_machines_programs(tmp_path: Path) -> None:
    env = a_job_environment(tmp_path)
    assert env["PATH"] == "/env/bin:/usr/bin"
    assert env["VIRTUAL_ENV"] == "/env"
    assert env["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"
    assert "SECRET" not in env


def test_a_job_may_set_what_it_likes_but_not_which_gpus_it_sees(tmp_path: Path) -> None:
    """Names that begin with PUSHTRAIN_ do not get as far as here: no job can hold them."""
    env = a_job_environment(tmp_path, env={"HF_HOME": "/x", "CUDA_VISIBLE_DEVICES": "0"})
    assert env["HF_HOME"] == "/x"
    assert env["CUDA_VISIBLE_DEVICES"] == env["NVIDIA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"
    assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert (env["MASTER_ADDR"], env["NPROC_PER_NODE"]) == ("127.0.0.1", "2")
    assert not {"WORLD_SIZE", "RANK", "LOCAL_RANK"} & set(env)


def test_parameters_are_there_as_json_and_one_by_one(tmp_path: Path) -> None:
    env = a_job_environment(tmp_path, cell={"lr": 0.1, "deep-er": True, "name": "a b", "n": 3})
    assert json.loads(env["PUSHTRAIN_PARAMS"]) == {"lr": 0.1, "deep-er": True, "name": "a b", "n": 3}
    found = {name: value for name, value in env.items() if name.startswith("PUSHTRAIN_PARAM_")}
    assert found == {
        "PUSHTRAIN_PARAM_LR": "0.1",
        "PUSHTRAIN_PARAM_DEEP_ER": "true",
        "PUSHTRAIN_PARAM_NAME": "a b",
        "PUSHTRAIN_PARAM_N": "3",
    }


def test_two_executors_attempts_of_one_run_have_marks_of_their_own() -> None:
    command = a_command()
    marks = {attempt_mark(a_run(command, attempt=1, token=digit * 32)) for digit in "ab"}
    assert len(marks) == 2


def test_a_repository_has_caches_of_its_own_whatever_its_name(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    one, two = bench.shop.caches("github.com/octo/hello"), bench.shop.caches("github.com/octo/" + "x" * 300)
    assert one != two
    assert (two / "home").is_dir()


# --- torch and its GPUs -----------------------------------------------------------------------------------


def fake_torch(tmp_path: Path, seen: int, built: str | None = "12.8") -> Path:
    """A `python` whose torch sees so many GPUs."""
    package = tmp_path / "site" / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import types\n__version__ = '2.9.0+cu128'\n"
        f"version = types.SimpleNamespace(cuda={built!r}, hip=None)\n"
        f"cuda = types.SimpleNamespace(is_available=lambda: {bool(seen)}, device_count=lambda: {seen})\n"
        "print('a line that torch prints on import')\n"
    )
    return package.parent


def ask(tmp_path: Path, site: Path | None, gpus: int = 2) -> str | None:
    env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin"}
    if site is not None:
        env["PYTHONPATH"] = str(site)
    return ask_torch(env, tmp_path, enclosure=Enclosure(), gpus=gpus, driver="580.10")


def test_torch_that_sees_all_gpus_is_fine(tmp_path: Path) -> None:
    assert ask(tmp_path, fake_torch(tmp_path, 2)) == ""


def test_an_environment_without_torch_is_fine(tmp_path: Path) -> None:
    assert ask(tmp_path, None) == ""


def test_torch_that_sees_no_gpu_names_driver_and_build(tmp_path: Path) -> None:
    assert ask(tmp_path, fake_torch(tmp_path, 0)) == (
        "torch 2.9.0+cu128, built for 12.8, sees none of the run's 2 GPUs under driver 580.10. "
        "Use a build of torch that fits the driver, or ask for no GPU."
    )


def test_torch_without_gpu_support_is_named_as_such(tmp_path: Path) -> None:
    assert "built without GPU support, sees none" in str(ask(tmp_path, fake_torch(tmp_path, 0, None)))


def test_torch_that_cannot_be_imported_is_left_to_the_training(tmp_path: Path) -> None:
    site = fake_torch(tmp_path, 2)
    (site / "torch" / "__init__.py").write_text("raise OSError('libcudart.so.12: not found')")
    assert ask(tmp_path, site) is None
    assert ask_torch({"PATH": "/nowhere"}, tmp_path, enclosure=Enclosure(), gpus=1, driver="") is None


def test_a_run_whose_torch_sees_no_gpu_fails_before_training(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    env = {"PYTHONPATH": str(fake_torch(tmp_path, 0))}
    object.__setattr__(bench.shop, "gpus", (a_gpu(0),))
    detail = bench.fails(Reason.NO_GPU, held=("GPU-0",), env=env)
    assert "sees none of the run's 1 GPU" in detail
    bench.prepare(env=env)


# --- bytecode ---------------------------------------------------------------------------------------------


@pytest.fixture
def read_only(tmp_path: Path) -> Path:
    """An environment as the cache keeps it: sealed."""
    root = tmp_path / "environment"
    venv.create(root, with_pip=False, symlinks=True)
    package = next(root.glob("lib/python*/site-packages")) / "package"
    package.mkdir()
    (package / "__init__.py").write_text("x = 1\n")
    (package / "broken.py").write_text("x = (\n")
    for folder in (package, package.parent, root):
        folder.chmod(0o555)
    return root


def test_an_environment_is_compiled_once_and_read_only_again(read_only: Path) -> None:
    compiler = Compiler()
    python = read_only / "bin" / "python"
    compiler.want(read_only, python)
    wait_until((read_only / MARK).exists)
    compiler.close()
    package = next(read_only.glob("lib/python*/site-packages/package"))
    (compiled,) = (package / "__pycache__").glob("__init__*.pyc")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (read_only, package, compiled.parent, compiled)]
    assert modes == [0o555, 0o555, 0o555, 0o444]
    before = compiled.stat().st_mtime_ns
    again = Compiler()
    again.want(read_only, python)
    again.close()
    assert compiled.stat().st_mtime_ns == before


def test_closing_ends_a_compilation_and_the_next_use_begins_it_again(tmp_path: Path) -> None:
    root = tmp_path / "environment"
    root.mkdir()
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 100\n")
    python.chmod(0o755)
    compiler = Compiler()
    compiler.want(root, python)
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    compiler.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    compiler.want(root, python)
    assert not (root / MARK).exists()


def test_a_build_is_compiled_in_the_background(tmp_path: Path) -> None:
    class Real(Kind):
        def build(self, tree: Path, spec: EnvironmentSpec, into: Path, builder: Builder) -> None:
            super().build(tree, spec, into, builder)
            (into / "bin" / "python").symlink_to(sys.executable)
            (into / "module.py").write_text("x = 1\n")

    bench = Bench(tmp_path, {"uv": Real()})
    bench.prepare()
    root = bench.house.state.environments / "uv-cafe"
    wait_until((root / MARK).exists)
    bench.shop.compiler.close()
    assert list((root / "__pycache__").glob("module*.pyc"))
