"""Choose the isolation of this executor's jobs: the strongest level that holds when it is tried.

A level is not believed by a version or a package, but by a canary that goes in and tries what a job must not
do (`plumbing/isolation/trial.py`). The first, in order of preference, that lets nothing through is taken, and
it must reach the owner's rule `min_isolation`. A level that can hold jobs neither to the rule `network` nor
to `none` is not offered.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from pushtrain.adapters.sandboxes import Ground, registry
from pushtrain.core.errors import ConfigError
from pushtrain.core.owner.canaries import Act, Findings
from pushtrain.core.owner.network import enforceable
from pushtrain.core.owner.rules import Rules
from pushtrain.core.values.isolation import Isolation, JobNetwork
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.isolation.nearby import Machine
from pushtrain.plumbing.isolation.trial import TrialError, try_level
from pushtrain.ports import Sandbox
from pushtrain.wiring.network import FULL, WayOut
from pushtrain.wiring.parts import adapter


@dataclass(frozen=True, slots=True)
class Rung:
    """One level of the ladder, as it was found on this machine."""

    sandbox: Sandbox
    why: str = ""
    """Why it is not offered; empty: it is."""
    mend: str = ""
    findings: Findings | None = None
    """What came of every act inside; None: it could not be tried."""

    @property
    def level(self) -> Isolation:
        """Which level this is."""
        return self.sandbox.level


def ladder(state: StateFolder, rules: Rules, way: WayOut, *, idly: bool = False) -> Iterator[Rung]:
    """Every level in order of preference, each tried when it is asked for.

    Args:
        state: The folder that jobs must not read.
        rules: Say what jobs may reach.
        way: How they reach it.
        idly: Whether levels are tried, too, that cannot be offered because of the rule `network`.
    """
    ground = Ground(state.isolation)
    private = (state.key, state.store, state.authorized, state.webhook_secret, state.settings)
    machine = Machine(state.isolation / "trials", state.root, private)
    for target in registry.values():
        yield _tried(adapter(target, ground), machine, rules, way, idly=idly)


def _tried(sandbox: Sandbox, machine: Machine, rules: Rules, way: WayOut, *, idly: bool) -> Rung:
    why, mend = sandbox.missing()
    if why:
        return Rung(sandbox, why, mend)
    can = enforceable(sandbox.level, uplinks=way.uplinks is not None)
    network = rules.network if rules.network in can else JobNetwork.NONE
    if network not in can:
        why = f"it cannot hold jobs to the network `{rules.network}` that the rule `network` allows"
        if not idly:
            return Rung(sandbox, why, FULL)
        with contextlib.suppress(TrialError):
            return Rung(sandbox, why, FULL, try_level(sandbox, machine, JobNetwork.FULL, way.uplinks))
        return Rung(sandbox, why, FULL)
    try:
        findings = try_level(sandbox, machine, network, way.uplinks)
    except TrialError as error:
        return Rung(sandbox, *sandbox.explain(str(error)))
    through = findings.through(network)
    why = f"a job could {listed_acts(through)}" if through else ""
    return Rung(sandbox, why, findings=findings)


def listed_acts(acts: tuple[Act, ...]) -> str:
    """Acts as the end of a sentence."""
    return ", ".join(act.value for act in acts)


def choose(state: StateFolder, rules: Rules, way: WayOut) -> Sandbox:
    """The best level that holds here.

    Raises:
        ConfigError: It is weaker than the owner's rule `min_isolation` demands; the mend is named.
    """
    lacking = []
    for rung in ladder(state, rules, way):
        if not rung.level.reaches(rules.min_isolation):
            continue
        if not rung.why:
            return rung.sandbox
        lacking.append(rung)
    least = rules.min_isolation
    why = "; ".join(f"{rung.level}: {rung.why}" for rung in lacking)
    mend = next((rung.mend for rung in reversed(lacking) if rung.mend), "")
    less = "Or lend to less with `--min-isolation` (docs/isolation.md tells what that means)."
    raise ConfigError(
        f"This machine cannot keep jobs apart as well as the rule `min_isolation` ({least}) demands. {why}.",
        mend=f"{mend.rstrip('.')}. {less}" if mend else less,
    )
