"""The workshop: what preparing an attempt takes, the same for all attempts of an executor."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pushtrain.core.owner.rules import Rules
from pushtrain.core.runs.turns import Bounds
from pushtrain.core.settings import ExecutorSettings
from pushtrain.core.values.card import Gpu
from pushtrain.core.values.isolation import Isolation, JobNetwork
from pushtrain.executor.owner.meter import Meter
from pushtrain.executor.rulebook import Rulebook
from pushtrain.executor.runs.access import Access
from pushtrain.executor.runs.bytecode import Compiler
from pushtrain.executor.runs.vault import Vault
from pushtrain.plumbing.data.ledger import Ledger
from pushtrain.plumbing.disk.cache import Cache
from pushtrain.plumbing.disk.ownfolders import own_folder
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.housekeeping.upkeep import Upkeep
from pushtrain.ports import Environment, Sandbox


@dataclass(frozen=True, slots=True)
class Workshop:
    """Tools, caches and rules."""

    state: StateFolder
    settings: ExecutorSettings
    rulebook: Rulebook
    downloads: Ledger
    mirrors: Callable[[str], Mirror]
    """The mirror of a repository's key; what it brings counts among `downloads`."""
    environments: Mapping[str, Environment]
    """By `EnvironmentKind`, in the order in which `auto` asks them."""
    data: Cache
    built: Cache
    upkeep: Upkeep
    sandbox: Sandbox
    """What jobs are kept in."""
    access: Access
    """What they reach over the network."""
    vault: Vault
    """Knows the secrets that jobs name."""
    meter: Meter
    """Counts what attempts use of GPUs."""
    cgroups: Mapping[str, Path] = field(default_factory=dict)
    """Where control groups can be made; see `plumbing/isolation/cgroups.py`."""
    gpus: tuple[Gpu, ...] = ()
    compiler: Compiler = field(default_factory=Compiler)
    seeing: set[tuple[Path, str]] = field(default_factory=set)
    """Environments and drivers that are known to see GPUs together."""
    inherited: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @property
    def rules(self) -> Rules:
        """What the owner allows."""
        return self.rulebook.rules

    @property
    def bounds(self) -> Bounds:
        """What the owner keeps of shared GPUs, and allows a person."""
        return Bounds(self.rules.owner.reserve, self.rules.limits.gpu_hours_per_day)

    @property
    def quiet(self) -> JobNetwork:
        """No network, for what needs none, where the level can keep it away."""
        return JobNetwork.NONE if self.sandbox.level.reaches(Isolation.SANDBOX) else JobNetwork.FULL

    def caches(self, repository: str, *, apart: str = "") -> Path:
        """A repository's own folder for `HF_HOME` and its like, kept between runs.

        Args:
            repository: Its key.
            apart: The branch to which it belongs alone: jobs with secrets share nothing with other branches,
                whose code could leave something in it for them, or read what their tools wrote down.
        """
        parts = ("home", "huggingface", "torch", "cache")
        return own_folder(self.state.caches, repository, apart=apart, parts=parts)

    def builds(self, repository: str, *, apart: str = "") -> Path:
        """What a repository's own code was built with, likewise; nothing but builds can write there."""
        return own_folder(self.state.builds, repository, apart=apart)

    def close(self) -> None:
        """End what goes on behind attempts."""
        self.compiler.close()
        self.access.close()

    def make_room(self) -> None:
        """Collect what was used least when the disk is nearly full."""
        if self.upkeep.low:
            self.upkeep.collect()
