"""The environment that a job's command runs in: which one it is, and made where it is not there yet.

One that took nobody's code is everybody's. What code has had its hands in is its repository's own: by what it
leaves behind it could else be in another repository's runs.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pushtrain.core.errors import BuildError, NeedsCode
from pushtrain.core.text.forms import script_of
from pushtrain.core.values.isolation import JobNetwork
from pushtrain.core.values.jobspec import EnvironmentKind, EnvironmentSpec, JobSpec
from pushtrain.executor.runs.access import Line
from pushtrain.executor.runs.cages import compiling_cage
from pushtrain.executor.runs.workshop import Workshop
from pushtrain.plumbing.isolation.building import CagedBuilder
from pushtrain.ports import Activation, Environment, Recipe, Report, Stop


@dataclass(frozen=True, slots=True)
class Made:
    """An environment that stands."""

    activation: Activation
    root: Path
    """Where it is."""
    told: str
    """For people: `uv: 14 packages, cached`."""
    kept: bool
    """Whether other runs may use it, too."""

    def compile(self, shop: Workshop) -> None:
        """Have its bytecode made, behind the run, where that helps others."""
        python = next((one / "python" for one in self.activation.path if (one / "python").exists()), None)
        if self.kept and python is not None:
            cage = compiling_cage(self.root, python, shop.state, network=shop.quiet)
            shop.compiler.want(self.root, python, shop.sandbox.enclose(cage))


class JobEnvironment:
    """One attempt's.

    Args:
        job: What is asked for.
        shop: What making it takes.
        tree: The commit's files.
        overlay: Where the project's own package is installed, for this attempt alone.
        own: Where what the repository's own code was built with is kept.
        network: What a build reaches, at most.
        line: The attempt's way to the internet.
        report: Told what happens at the moment.
        stop: Called now and then; what it raises ends the work.
    """

    def __init__(
        self,
        job: JobSpec,
        shop: Workshop,
        *,
        tree: Path,
        overlay: Path,
        own: Path,
        network: JobNetwork,
        line: Line,
        report: Report,
        stop: Stop,
    ) -> None:
        self._job = job
        self._shop = shop
        self._tree = tree
        self._overlay = overlay
        self._own = own
        self._network = network
        self._line = line
        self._report = report
        self._stop = stop

    def made(self, notes: list[str]) -> Made:
        """It, built if need be; `notes` is told whether.

        Raises:
            BuildError: No way to build one fits the commit, or the build failed.
            Cancelled: `stop` wanted it.
        """
        spec = self._wanted()
        kind, adapter, recipe = self._choose(spec)
        root = self._overlay
        if recipe.key:
            root, cached = self._cached(adapter, spec, f"{kind}-{recipe.key}".lower())
            notes.append("cached" if cached else "built")
        activation = adapter.activate(self._tree, spec, root, self._overlay, self._builder(code=True))
        told = ", ".join([recipe.title, *notes, *(() if recipe.locked else ("not pinned",))])
        return Made(activation, root, told, kept=bool(recipe.key))

    def _wanted(self) -> EnvironmentSpec:
        """What the job asks for; where it leaves the choice to us, with the script that it runs as a hint."""
        spec = self._job.environment
        if spec.kind is not EnvironmentKind.AUTO:
            return spec
        return spec.model_copy(update={"file": script_of(self._job.command)})

    def _choose(self, spec: EnvironmentSpec) -> tuple[str, Environment, Recipe]:
        offered = self._shop.environments
        kinds = [kind for kind in offered if spec.kind in {EnvironmentKind.AUTO, kind}]
        for kind in kinds:
            if (recipe := offered[kind].plan(self._tree, spec)) is not None:
                return kind, offered[kind], recipe
        raise _unfit(spec, kinds)

    def _cached(self, adapter: Environment, spec: EnvironmentSpec, key: str) -> tuple[Path, bool]:
        """The environment of a key, and whether it was there."""
        built, tree = self._shop.built, self._tree
        own = f"{key}-{hashlib.sha256(self._own.name.encode()).hexdigest()[:16]}"
        if not _stands(built.root / own):
            built.remove(own)
        found = built.get(own, holder=tree)
        if found is not None:
            return found, True

        def make(into: Path, *, code: bool) -> None:
            with self._shop.downloads.building(into, self._line.received):
                adapter.build(tree, spec, into, self._builder(code=code))

        try:
            return built.build(key, partial(make, code=False), holder=tree, stop=self._stop)
        except NeedsCode:
            return built.build(own, partial(make, code=True), holder=tree, stop=self._stop)

    def _builder(self, *, code: bool) -> CagedBuilder:
        shop = self._shop
        return CagedBuilder(
            shop.sandbox,
            shared=shop.state.environments,
            tools=shop.state.tools,
            own=self._own,
            network=self._network,
            uplink=self._line.take,
            limits=shop.rules.limits,
            report=self._report,
            stop=self._stop,
            code=code,
            hosts=shop.rules.allow_data_hosts,
            environ=shop.inherited,
        )


def _stands(root: Path) -> bool:
    """Whether an environment's Python has not gone from the machine."""
    python = root / "bin" / "python"
    return python.exists() or not python.is_symlink()


def _unfit(spec: EnvironmentSpec, kinds: Sequence[str]) -> BuildError:
    """Why no way to build one fits; `kinds` are those that were asked."""
    if not kinds:
        return BuildError(
            f"This executor builds no `{spec.kind}` environments.",
            mend="Choose another kind, or another executor.",
        )
    if spec.kind is EnvironmentKind.AUTO:
        return BuildError(
            "No way to build an environment fits this commit.", mend="Name one with `environment`."
        )
    return BuildError(
        f"This commit has nothing that a `{spec.kind}` environment is built from.",
        mend="Commit what it needs, or change `environment`.",
    )
