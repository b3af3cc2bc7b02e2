"""A site where environments are made of small packages, and what tests of them share."""

import importlib
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from data_server import FileServer
from pushtrain.adapters.environments import registry
from pushtrain.adapters.environments.site import Site
from pushtrain.adapters.sandboxes import Ground
from pushtrain.adapters.sandboxes.none import Unconfined
from pushtrain.core.errors import NeedsCode
from pushtrain.core.owner.rules import Limits
from pushtrain.core.values.isolation import JobNetwork
from pushtrain.core.values.jobspec import EnvironmentSpec
from pushtrain.plumbing.disk.cache import Cache
from pushtrain.plumbing.isolation.building import CagedBuilder
from pushtrain.ports import Activation, Environment, Report, Stop
from wheel_index import serve_index, wheel

AUTO = EnvironmentSpec()
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


def served_packages(server: FileServer) -> str:
    """An index of a few small packages; its address."""
    return serve_index(
        server,
        [
            wheel("alpha", "1.0", script="alpha"),
            wheel("alpha", "2.0", script="alpha"),
            wheel("beta", "1.0", requires=["alpha"]),
            wheel("gamma", "1.0"),
        ],
    )


def a_site(folder: Path, index: str) -> Site:
    """Where environments are made, of packages of an index."""
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "UV_DEFAULT_INDEX": index,
        "UV_PYTHON_DOWNLOADS": "never",
        "SECRET": "hunter2",
    }
    return Site(caches=folder / "caches", built=folder / "built", offered={}, environ=environ)


def write(tree: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)


def project(*, dependencies: str = "", more: str = "", name: str = "mine") -> str:
    return (
        f'[project]\nname = "{name}"\nversion = "0.1"\nrequires-python = ">=3.11"\n'
        f"dependencies = [{dependencies}]\n{more}"
    )


HATCH = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'


def a_builder(
    site: Site, *, code: bool = True, report: Report = lambda *_: None, stop: Stop = lambda: None
) -> CagedBuilder:
    """A builder without a cage; tests/executor/test_builds.py has those with one."""
    return CagedBuilder(
        Unconfined(Ground(site.caches)),
        shared=site.built.parent,
        tools=site.caches,
        own=site.caches.parent / "own",
        network=JobNetwork.FULL,
        uplink=lambda: None,
        limits=Limits(),
        report=report,
        stop=stop,
        code=code,
        environ=site.environ,
    )


def made(environment: Environment, tree: Path, site: Site, spec: EnvironmentSpec = AUTO) -> Path:
    """As the executor does it: plan, then build in the cache, with code where it takes some."""
    recipe = environment.plan(tree, spec)
    assert recipe is not None
    cache = Cache(site.built)

    def make(into: Path, *, code: bool) -> None:
        environment.build(tree, spec, into, a_builder(site, code=code))

    try:
        return cache.build(recipe.key, partial(make, code=False))[0]
    except NeedsCode:
        return cache.build(recipe.key, partial(make, code=True))[0]


def run(activation: Activation, tree: Path, *argv: str) -> str:
    path = ":".join([*map(str, activation.path), "/usr/bin", "/bin"])
    env = {"PATH": path, "HOME": "/nonexistent", **activation.env}
    done = subprocess.run(argv, cwd=tree, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def key(environment: Environment, tree: Path, spec: EnvironmentSpec = AUTO) -> str:
    recipe = environment.plan(tree, spec)
    assert recipe is not None
    return recipe.key


def first_to_apply(site: Site, tree: Path, spec: EnvironmentSpec) -> str:
    for name, target in registry.items():
        module, _, kind = target.partition(":")
        if getattr(importlib.import_module(module), kind)(site).plan(tree, spec) is not None:
            return name
    return ""
