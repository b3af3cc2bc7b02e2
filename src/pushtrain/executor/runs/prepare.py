"""Prepare an attempt: the commit's files, the data, the environment, and the orders for its shim.

Data and environment are fetched and built at the same time, when there is both. Whatever fails becomes a
`PreparationError` that says which stage failed and why, in one sentence; the same words go into the attempt's
log, because the log is what gets published. Everything here is repeatable: an attempt that was cut short is
made again in a folder of its own.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pushtrain.core.errors import (
    Cancelled,
    DataError,
    Forbidden,
    GitError,
    PushtrainError,
)
from pushtrain.core.owner.rules import Limits
from pushtrain.core.owner.ruling import Allowed
from pushtrain.core.text import queries
from pushtrain.core.values.isolation import JobNetwork
from pushtrain.core.values.jobspec import DataSource, JobSpec, PreemptSignal
from pushtrain.core.values.run import Attempt, Fetched, Progress, Run, StageTime
from pushtrain.core.values.states import Reason, Stage
from pushtrain.executor.moving import luggage
from pushtrain.executor.rulebook import Against
from pushtrain.executor.runs import library
from pushtrain.executor.runs.blame import PreparationError, blamed, fault_of
from pushtrain.executor.runs.cages import job_cage, limited
from pushtrain.executor.runs.environment import JobEnvironment
from pushtrain.executor.runs.preflight import ask_torch
from pushtrain.executor.runs.torchrun import launched
from pushtrain.executor.runs.variables import attempt_mark, job_environment
from pushtrain.executor.runs.vault import Given
from pushtrain.executor.runs.workshop import Workshop
from pushtrain.plumbing.attempts.records import Orders, SetupStep
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.data import supply as data
from pushtrain.plumbing.data.ledger import Exhausted, Quiet
from pushtrain.plumbing.data.terms import of_rules
from pushtrain.plumbing.disk.trees import remove_tree
from pushtrain.plumbing.git.checkout import Checkout
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.isolation.uplink import Uplink
from pushtrain.ports import Activation, Enclosure, Report, Stop

SHELL: Final = ("bash", "-eo", "pipefail", "-c")
_REASONS: Final = {
    Stage.FETCH: Reason.CHECKOUT,
    Stage.CHECKOUT: Reason.CHECKOUT,
    Stage.DATA: Reason.DATA,
    Stage.ENVIRONMENT: Reason.ENVIRONMENT,
}


class Preparation:
    """One attempt on its way to the shim.

    Args:
        run: The run, claimed.
        folder: The attempt's folder, made.
        shop: What it takes.
        progress: Told what happens at the moment.
        stop: Called now and then; what it raises ends the work.
    """

    def __init__(
        self, run: Run, folder: RunDir, shop: Workshop, *, progress: Callable[[Progress], None], stop: Stop
    ) -> None:
        self._run = run
        self._job = run.command.job
        self._folder = folder
        self._shop = shop
        self._progress = progress
        self._stop = stop
        self._given_up = threading.Event()
        self._mirror: Mirror | None = None
        self._stages: dict[Stage, StageTime] = {}
        self._data: list[Fetched] = []
        self._environment = ""
        self._shown: list[Path] = []
        self._line = shop.access.line()
        self._reached = ""
        self._secrets: dict[str, Given] = {}

    def orders(self) -> Orders:
        """Do all of it; the shim's orders.

        Raises:
            PreparationError: The attempt cannot be started; the log says why.
            Cancelled: `stop` wanted it.
        """
        try:
            return self._orders()
        except PreparationError as error:
            with self._folder.log.open("a", encoding="utf-8") as log:
                log.write(f"pushtrain: {error.reason}: {error.detail}\n")
            raise

    @property
    def uplink(self) -> Uplink | None:
        """The way to the internet that the attempt has; whoever starts it hands it to the shim."""
        return self._line.uplink

    def close(self) -> None:
        """Let go of the uplink, which goes on only where a shim holds it."""
        self._line.close()

    def told(self, attempt: Attempt) -> Attempt:
        """The attempt with what is known of its preparation, also of one that failed."""
        if attempt.number == 1:
            waited = max(0.0, attempt.claimed_at - self._run.accepted_at)
            self._stages[Stage.QUEUE] = StageTime(stage=Stage.QUEUE, seconds=waited)
        return attempt.model_copy(
            update={
                "stages": tuple(self._stages[stage] for stage in Stage if stage in self._stages),
                "data": tuple(self._data),
                "environment": self._environment,
                "isolation": self._shop.sandbox.level,
                "network": self._reached,
                "secrets": tuple(f"{name}, {one.origin}" for name, one in self._secrets.items()),
            }
        )

    def _orders(self) -> Orders:
        job, folder, limits = self._job, self._folder, self._shop.rules.limits
        self._check_isolation()
        network = self._reached = self._network()
        self._check_out()
        self._take_secrets()
        self._take_checkpoint()
        cwd = self._work_folder()
        self._shop.make_room()
        activation, root = self._data_and_environment()
        caches = self._shop.caches(self._run.command.repository, apart=self._apart)
        library.show(folder)
        env = job_environment(
            self._run,
            folder,
            caches=caches,
            activation=activation,
            gpus=self._run.gpus,
            inherited=self._shop.inherited,
        )
        if self._run.gpus:
            self._check_torch(env, root, self._enclosure(self._shop.quiet, activation, root, caches))
        during, then = (network, network)
        if network is JobNetwork.FETCH_ONLY:
            during, then = JobNetwork.INTERNET, JobNetwork.NONE

        def enclosure(reached: JobNetwork) -> Enclosure:
            return self._enclosure(reached, activation, root, caches)

        argv = (*SHELL, job.command) if isinstance(job.command, str) else job.command
        return Orders(
            setup=tuple(SetupStep(title=line, argv=(*SHELL, line)) for line in job.setup),
            argv=launched(job, argv, processes=len(self._run.gpus)),
            shell=isinstance(job.command, str) and not job.launcher,
            enclosure=enclosure(then),
            setup_enclosure=enclosure(during) if job.setup else Enclosure(),
            env=env,
            cwd=str(cwd),
            log_limit=limits.log,
            timeout=time_limit(job, limits),
            setup_timeout=limits.time,
            grace=self._shop.settings.grace,
            preempt_signal=number_of(job.preempt_signal),
            stop_file=str(folder.stop_file),
            limits=limited(
                folder,
                limits,
                caches=caches,
                mark=attempt_mark(self._run),
                cgroups=self._shop.cgroups,
            ),
        )

    def _check_isolation(self) -> None:
        """The executor may have been started anew, with less, since it took the run on."""
        level, least = self._shop.sandbox.level, self._job.min_isolation
        if least is not None and not level.reaches(least):
            problem = f"The job asks for isolation `{least}` at least, and this executor offers `{level}`."
            raise PreparationError(Reason.ISOLATION, f"{problem} Send it to another one.")

    def _network(self) -> JobNetwork:
        """What the job reaches; rules may have changed since it was accepted."""
        try:
            return self._shop.access.settle(self._job.network)
        except Forbidden as error:
            raise PreparationError(Reason.REFUSED, str(error)) from error

    def _enclosure(self, network: JobNetwork, activation: Activation, root: Path, caches: Path) -> Enclosure:
        shop = self._shop
        cage = job_cage(
            self._folder,
            shop.state,
            shop.rules.limits,
            network=network,
            activation=activation,
            root=root,
            caches=caches,
            data=self._shown,
            gpus=[gpu for gpu in shop.gpus if gpu.uuid in self._run.gpus],
        )
        try:
            enclosure = shop.sandbox.enclose(cage)
            if enclosure.confinement.uplink:
                self._line.take()
        except (PushtrainError, OSError) as error:
            reason = fault_of(error, Reason.ISOLATION)
            raise PreparationError(reason, f"The job could not be isolated: {error}") from error
        return enclosure

    # --- the stages ---------------------------------------------------------------------------------------

    @contextmanager
    def _stage(self, stage: Stage, text: str = "") -> Iterator[list[str]]:
        """Time a stage, and name it as the culprit of what fails in it; the list takes notes for people."""
        self._progress(Progress(stage=stage, text=text))
        notes: list[str] = []
        begin = time.monotonic()
        try:
            yield notes
        except Cancelled:
            raise
        except (Against, Exhausted, Quiet) as error:
            self._given_up.set()
            against = error if isinstance(error, Against) else self._shop.rulebook.used_up(error)
            refusal = against.refusal
            reason = Reason.REFUSED if refusal.again_at is None else Reason.DEFERRED
            raise PreparationError(reason, refusal.sentence, refusal.again_at) from error
        except PushtrainError as error:
            self._given_up.set()
            raise blamed(error, _REASONS[stage], self._mirror, stop=self._stop) from error
        except OSError as error:
            self._given_up.set()
            reason = fault_of(error, _REASONS[stage])
            raise PreparationError(reason, f"The {stage} failed: {error}.") from error
        finally:
            seconds = time.monotonic() - begin
            self._stages[stage] = StageTime(stage=stage, seconds=seconds, note=", ".join(notes))

    def _report(self, stage: Stage) -> Report:
        def report(text: str, done: int, total: int) -> None:
            self._progress(Progress(stage=stage, text=text, done=done, total=total))

        return report

    def _stop_all(self) -> None:
        """Stop also when the other half of the work has failed."""
        self._stop()
        if self._given_up.is_set():
            raise Cancelled("Another part of the preparation failed.")

    def _check_out(self) -> None:
        command = self._run.command
        rulebook = self._shop.rulebook
        with self._stage(Stage.FETCH) as notes:
            allowed = rulebook.recheck(self._run, let_in=self._let_in)
            self._mirror = mirror = self._shop.mirrors(command.repository)
            first = mirror.birth()
            if not mirror.fetch(command.ref, command.commit, stop=self._stop):
                notes.append("cached")
            self._prove(allowed, mirror, old=mirror.birth() == first)
            rulebook.ask_hooks(self._run, isolation=self._shop.sandbox.level, stop=self._stop)
        with self._stage(Stage.CHECKOUT) as notes:
            born = mirror.birth()
            try:
                done = self._copy(mirror)
            except GitError as error:
                if not mirror.renewed(born, error, stop=self._stop, old=born == first):
                    raise
                # It is damaged, or another run has found it so, and has made it anew while we copied.
                mirror.fetch(command.ref, command.commit, stop=self._stop)
                remove_tree(self._folder.tree)
                done = self._copy(mirror)
            notes.append(f"{done.files} file{'s' if done.files != 1 else ''}")
            if done.lfs_files:
                notes.append(f"{done.lfs_files} from LFS")

    def _let_in(self) -> bool:
        return self._shop.mirrors(self._run.command.repository).let_in()

    def _prove(self, allowed: Allowed, mirror: Mirror, *, old: bool) -> None:
        """See that the commit is what the rules allow; in another mirror where this one proves damaged."""
        command, prove, born = self._run.command, self._shop.rulebook.prove, mirror.birth()
        try:
            prove(self._run, allowed, mirror, stop=self._stop)
        except GitError as error:
            if not mirror.renewed(born, error, stop=self._stop, old=old):
                raise
            mirror.fetch(command.ref, command.commit, stop=self._stop)
            prove(self._run, allowed, mirror, stop=self._stop)

    def _copy(self, mirror: Mirror) -> Checkout:
        return mirror.checkout(
            self._run.command.commit,
            self._folder.tree,
            submodules=self._job.submodules,
            lfs=self._job.lfs,
            stop=self._stop,
        )

    def _take_secrets(self) -> None:
        """Have the secrets that the job names, and write down, sealed, which they are.

        Which it may have depends on its branch; the fetch has seen to it that the commit is of that branch.
        """
        vault = self._shop.vault
        try:
            self._secrets = vault.of(self._run.command, stop=self._stop)
            signatures = {name: Given(text, "") for name, text in queries.values(self._run.command).items()}
            vault.note(self._folder, signatures | self._secrets)
        except Cancelled:
            raise
        except PushtrainError as error:
            raise blamed(error, Reason.SECRETS, self._mirror, stop=self._stop) from error

    def _take_checkpoint(self) -> None:
        """Have what an earlier executor has brought away of the run."""
        checkpoint, shop = self._run.command.checkpoint, self._shop
        if checkpoint is None:
            return
        with self._stage(Stage.DATA, "the run's checkpoint") as notes:
            if luggage.fetch(
                checkpoint,
                self._folder,
                shop.mirrors(self._run.command.repository),
                limit=shop.rules.limits.disk,
                stop=self._stop,
                toll=shop.downloads,
            ):
                notes.append("checkpoint fetched")

    @property
    def secrets(self) -> dict[str, str]:
        """The secrets' values, for the shim alone; known once `orders` has returned."""
        return {name: one.value for name, one in self._secrets.items()}

    def _work_folder(self) -> Path:
        """Where the command starts: a folder of the commit, links followed, never outside it."""
        tree = self._folder.tree.resolve()
        cwd = (tree / self._job.workdir).resolve()
        if cwd.is_relative_to(tree) and cwd.is_dir():
            return cwd
        problem = f"`workdir` is {self._job.workdir!r}, which is not a folder in this commit."
        raise PreparationError(Reason.CHECKOUT, f"{problem} Mend it in pushtrain.toml.")

    def _data_and_environment(self) -> tuple[Activation, Path]:
        if not self._job.data:
            return self._build()
        with ThreadPoolExecutor(1, thread_name_prefix="pushtrain-data") as pool:
            fetching = pool.submit(self._fetch_data)
            try:
                built = self._build()
            except BaseException:
                self._given_up.set()
                error = fetching.exception()
                if error is not None and not isinstance(error, Cancelled):
                    raise error from None  # it came first: the build gave up because of it
                raise
            found = fetching.result()
        for path, source in found:
            self._shown.append(path.absolute())
            try:
                data.attach(path, self._folder.tree, source)
            except PushtrainError as error:
                raise PreparationError(Reason.DATA, str(error)) from error
        return built

    def _fetch_data(self) -> list[tuple[Path, DataSource]]:
        found = []
        limit = self._shop.rules.limits.time
        end = time.monotonic() + limit

        def stop() -> None:
            self._stop_all()
            if time.monotonic() > end:
                raise DataError(
                    f"The data was not here after {limit:g} s, the longest that a run may take here.",
                    mend="Use a faster server, or have the executor's owner raise `rules.limits.time`.",
                )

        with self._stage(Stage.DATA) as notes:
            terms = of_rules(self._shop.rules)
            for source in self._job.data:
                path, fetched = data.fetch(
                    source,
                    cache=self._shop.data,
                    mounts=self._shop.settings.mounts,
                    report=self._report(Stage.DATA),
                    stop=stop,
                    terms=terms,
                    repository=self._run.command.repository,
                    holder=self._folder.tree,
                    meter=self._shop.downloads.metered,
                    environ=self._shop.inherited,
                )
                self._data.append(fetched)
                found.append((path, source))
            if all(one.cached for one in self._data):
                notes.append("cached")
        return found

    def _build(self) -> tuple[Activation, Path]:
        """The environment, built if need be, and where it is."""
        with self._stage(Stage.ENVIRONMENT) as notes:
            made = JobEnvironment(
                self._job,
                self._shop,
                tree=self._folder.tree,
                overlay=self._folder.overlay,
                own=self._shop.builds(self._run.command.repository, apart=self._apart),
                network=JobNetwork(self._reached),
                line=self._line,
                report=self._report(Stage.ENVIRONMENT),
                stop=self._stop_all,
            ).made(notes)
        self._environment = made.told
        made.compile(self._shop)
        return made.activation, made.root

    @property
    def _apart(self) -> str:
        """The branch that the repository's caches are for alone; empty: they are for all."""
        return self._run.command.ref if self._job.secrets else ""

    def _check_torch(self, env: Mapping[str, str], root: Path, enclosure: Enclosure) -> None:
        driver = next((gpu.driver for gpu in self._shop.gpus), "")
        if (root, driver) in self._shop.seeing:
            return
        self._progress(Progress(stage=Stage.ENVIRONMENT, text="asking torch for its GPUs"))
        problem = ask_torch(
            env,
            self._folder.tmp,
            gpus=len(self._run.gpus),
            driver=driver,
            enclosure=enclosure,
            stop=self._stop,
        )
        if problem:
            raise PreparationError(Reason.NO_GPU, problem)
        if problem is not None:
            self._shop.seeing.add((root, driver))


def number_of(chosen: PreemptSignal) -> int:
    """A signal's number; 0 for none."""
    return 0 if chosen is PreemptSignal.NONE else signal.Signals[chosen.value].value


def time_limit(job: JobSpec, limits: Limits) -> float:
    """Seconds that a training may last here."""
    return min(job.timeout or limits.time, limits.time)
