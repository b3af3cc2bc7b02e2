"""Choose the isolation of this executor's jobs: the strongest level that the machine offers."""

from collections.abc import Iterator
from dataclasses import dataclass

from pushtrain.adapters.sandboxes import Ground, registry
from pushtrain.core.errors import ConfigError
from pushtrain.core.model import Isolation
from pushtrain.core.rules import Rules
from pushtrain.plumbing.state import StateFolder
from pushtrain.ports import Sandbox
from pushtrain.wiring.parts import adapter


@dataclass(frozen=True, slots=True)
class Rung:
    """One level, and whether this machine offers it."""

    sandbox: Sandbox
    why: str
    """Why it is not offered; empty: it is."""
    mend: str


def ladder(state: StateFolder) -> Iterator[Rung]:
    """Every level, strongest first."""
    ground = Ground(state.isolation)
    for target in registry.values():
        sandbox: Sandbox = adapter(target, ground)
        yield Rung(sandbox, *sandbox.missing())


def choose(state: StateFolder, rules: Rules) -> Sandbox:
    """The strongest level offered here.

    Raises:
        ConfigError: It is weaker than the owner's rule `min_isolation` demands; the mend is named.
    """
    lacking = []
    for rung in ladder(state):
        level = rung.sandbox.level
        if not level.reaches(rules.min_isolation):
            break
        if not rung.why:
            return rung.sandbox
        lacking.append(rung)
    raise _refusal(lacking, rules.min_isolation)


def _refusal(lacking: list[Rung], least: Isolation) -> ConfigError:
    why = "; ".join(f"{rung.sandbox.level}: {rung.why}" for rung in lacking)
    mend = next((rung.mend for rung in reversed(lacking) if rung.mend), "")
    return ConfigError(
        f"Jobs cannot be isolated here as the rule `min_isolation` ({least}) demands: {why}.",
        mend=f"{mend} Or ask for less with the rule `min_isolation` (docs/isolation.md).".strip(),
    )
