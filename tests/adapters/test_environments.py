import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest

from data_server import FileServer, file_server
from pushtrain.adapters.environments import registry, tool
from pushtrain.adapters.environments.conda import CondaFile
from pushtrain.adapters.environments.python import fits, own
from pushtrain.adapters.environments.ready import Named, System
from pushtrain.adapters.environments.requirements import RequirementsFile, collect
from pushtrain.adapters.environments.script import InlineScript, metadata
from pushtrain.adapters.environments.site import Site, driver, lines_tail
from pushtrain.adapters.environments.tool import Uv, clean, torch_backend
from pushtrain.adapters.environments.uv import UvProject
from pushtrain.adapters.sandboxes import Ground
from pushtrain.adapters.sandboxes.none import Unconfined
from pushtrain.core.errors import BuildError, Cancelled, NeedsCode
from pushtrain.core.forms import script_of
from pushtrain.core.isolation import JobNetwork
from pushtrain.core.jobspec import EnvironmentKind, EnvironmentSpec
from pushtrain.core.rules import Limits
from pushtrain.plumbing.disk.cache import Cache
from pushtrain.plumbing.isolation.building import CagedBuilder
from pushtrain.ports import Activation, Environment, Report, Stop
from wheel_index import serve_index, wheel

AUTO = EnvironmentSpec()
UV = EnvironmentSpec(kind=EnvironmentKind.UV)
REQUIREMENTS = EnvironmentSpec(kind=EnvironmentKind.REQUIREMENTS)
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"

BACKEND = """
import zipfile
INFO = "built_here-1.dist-info"
def get_requires_for_build_wheel(config_settings=None): return []
def build_wheel(directory, config_settings=None, metadata_directory=None):
    files = {
        "built_here.py": open("built_here.py").read() + "BUILT = True\\n",
        INFO + "/METADATA": "Metadata-Version: 2.1\\nName: built-here\\nVersion: 1\\n",
        INFO + "/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        INFO + "/entry_points.txt": "[console_scripts]\\nbuilt-here = built_here:main\\n",
        INFO + "/RECORD": "",
    }
    name = "built_here-1-py3-none-any.whl"
    with zipfile.ZipFile(directory + "/" + name, "w") as out:
        for path, content in files.items():
            out.writestr(path, content)
    return name
"""


@pytest.fixture(scope="module")
def server() -> Iterator[FileServer]:
    with file_server() as found:
        yield found


@pytest.fixture(scope="module")
def index(server: FileServer) -> str:
    return serve_index(
        server,
        [
            wheel("alpha", "1.0", script="alpha"),
            wheel("alpha", "2.0", script="alpha"),
            wheel("beta", "1.0", requires=["alpha"]),
            wheel("gamma", "1.0"),
        ],
    )


@pytest.fixture
def site(tmp_path: Path, index: str) -> Site:
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "UV_DEFAULT_INDEX": index,
        "UV_PYTHON_DOWNLOADS": "never",
        "SECRET": "hunter2",
    }
    return Site(caches=tmp_path / "caches", built=tmp_path / "built", offered={}, environ=environ)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    return folder


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


def lock(site: Site, folder: Path) -> None:
    env = Uv(site).environment(a_builder(site))
    argv = [str(tool.uv_binary()), "lock", "--quiet", "--python", own().request]
    subprocess.run(argv, cwd=folder, env=env, check=True)


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


# --- the set ----------------------------------------------------------------------------------------------


def test_every_kind_has_an_adapter_that_fits_the_port(site: Site) -> None:
    assert set(registry) == {kind.value for kind in EnvironmentKind} - {"auto"}
    for target in registry.values():
        module, _, name = target.partition(":")
        made: Environment = getattr(importlib.import_module(module), name)(site)
        assert all(callable(getattr(made, method)) for method in ("plan", "build", "activate"))


@pytest.mark.parametrize(
    ("files", "first"),
    [
        ({"uv.lock": "", "pyproject.toml": project(), "requirements.txt": ""}, "uv"),
        ({"pyproject.toml": project(), "requirements.txt": ""}, "uv"),
        ({"pyproject.toml": "[tool.ruff]\n", "requirements.txt": "", "environment.yml": ""}, "requirements"),
        ({"environment.yml": "", "train.py": "# /// script\n# dependencies = []\n# ///\n"}, "conda"),
        ({"train.py": "# /// script\n# dependencies = []\n# ///\n", "other.py": ""}, "script"),
        ({"train.py": "print()"}, "system"),
    ],
)
def test_auto_asks_in_the_documented_order(
    site: Site, tree: Path, tmp_path: Path, files: dict[str, str], first: str
) -> None:
    write(tree, files)
    stand_in(tmp_path, "micromamba")
    known = Site(
        site.caches,
        site.built,
        environ={**site.environ, "PATH": f"{tmp_path / 'tools'}:{os.environ['PATH']}"},
    )
    assert first_to_apply(known, tree, AUTO) == first


# --- uv ---------------------------------------------------------------------------------------------------


def test_locked_project_is_built_from_its_lock_without_the_project(site: Site, tree: Path) -> None:
    write(tree, {"pyproject.toml": project(dependencies='"beta"', more=HATCH), "src/mine/__init__.py": ""})
    lock(site, tree)
    environment = UvProject(site)
    recipe = environment.plan(tree, AUTO)
    assert recipe is not None
    assert (recipe.locked, recipe.title) == (True, f"uv.lock, Python {PYTHON}")
    root = made(environment, tree, site)
    assert (
        run(
            Activation(path=(root / "bin",)), tree, "python", "-c", "import beta, alpha; print(alpha.VERSION)"
        )
        == "2.0"
    )
    assert not list(root.glob("lib/*/site-packages/mine*"))
    assert run(Activation(path=(root / "bin",)), tree, "alpha") == "alpha 2.0"


def test_commit_two_runs_the_code_of_commit_two(site: Site, tmp_path: Path) -> None:
    environment = UvProject(site)
    said, roots = [], set()
    for commit in ("one", "two"):
        tree = tmp_path / commit
        files = {
            "pyproject.toml": project(
                dependencies='"alpha"', more=HATCH + '[project.scripts]\nmine = "mine.cli:main"\n'
            ),
            "src/mine/__init__.py": f"COMMIT = {commit!r}\n",
            "src/mine/cli.py": "def main():\n    import mine; print(mine.COMMIT)\n",
        }
        write(tree, files)
        lock(site, tree)
        root = made(environment, tree, site)
        activation = environment.activate(tree, AUTO, root, tmp_path / f"overlay-{commit}", a_builder(site))
        roots.add(root)
        said.append(run(activation, tree, "python", "-c", "import mine; print(mine.COMMIT)"))
        said.append(run(activation, tree, "mine"))
    assert said == ["one", "one", "two", "two"]
    assert len(roots) == 1, "the dependencies are shared"


def test_metadata_and_entry_points_of_the_own_package_work(site: Site, tree: Path, tmp_path: Path) -> None:
    more = (
        'description = "Mine"\n[project.scripts]\nmine-run = "mine:app.go"\n'
        '[project.entry-points.plugins]\nx = "mine:app"\n'
        "[project.optional-dependencies]\ncuda = [\"gamma; python_version > '3'\"]\n" + HATCH
    )
    code = "class App:\n    def go(self):\n        print('went'); return 0\napp = App()\n"
    write(tree, {"pyproject.toml": project(dependencies='"alpha>=1"', more=more), "mine/__init__.py": code})
    environment = UvProject(site)
    root = made(environment, tree, site)
    activation = environment.activate(tree, AUTO, root, tmp_path / "over lay", a_builder(site))
    probe = (
        "import importlib.metadata as m, json; d = m.distribution('mine');"
        "print(json.dumps([d.version, d.metadata['Summary'], d.requires,"
        "sorted(e.name for e in d.entry_points),"
        "m.entry_points(group='plugins')['x'].load().__class__.__name__]))"
    )
    assert json.loads(run(activation, tree, "python", "-c", probe)) == [
        "0.1",
        "Mine",
        ["alpha>=1", "gamma ; (python_version > '3') and extra == 'cuda'"],
        ["mine-run", "x"],
        "App",
    ]
    assert run(activation, tree, "mine-run") == "went"


def test_package_that_must_be_built_is_built_from_this_tree(site: Site, tmp_path: Path) -> None:
    environment = UvProject(site)
    said = []
    for commit in ("one", "two"):
        tree = tmp_path / commit
        system = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        code = f"def main():\n    print({commit!r}, BUILT)\n"
        files = {
            "pyproject.toml": project(name="built-here", more=system),
            "backend.py": BACKEND,
            "built_here.py": code,
        }
        write(tree, files)
        root = made(environment, tree, site)
        activation = environment.activate(tree, AUTO, root, tmp_path / f"overlay-{commit}", a_builder(site))
        said.append(run(activation, tmp_path, "built-here"))
    assert said == ["one True", "two True"]


@pytest.mark.parametrize(
    ("tables", "files", "as_it_is"),
    [
        (HATCH, {"src/mine/__init__.py": ""}, True),
        (HATCH, {"mine.py": ""}, True),
        (
            HATCH + '[tool.hatch.build.targets.wheel]\npackages = ["code/other"]\n',
            {"code/other/x.py": ""},
            True,
        ),
        (HATCH + "[tool.hatch.build.hooks.custom]\n", {"src/mine/__init__.py": ""}, False),
        (
            HATCH + '[tool.hatch.build.targets.wheel.force-include]\n"a" = "b"\n',
            {"src/mine/__init__.py": ""},
            False,
        ),
        (HATCH, {"unusual/__init__.py": ""}, False),
        (
            '[build-system]\nrequires = ["uv_build"]\nbuild-backend = "uv_build"\n',
            {"src/mine/__init__.py": ""},
            True,
        ),
        (
            '[build-system]\nrequires = ["flit_core"]\nbuild-backend = "flit_core.buildapi"\n',
            {"mine.py": ""},
            True,
        ),
        ('[build-system]\nrequires = ["setuptools"]\n', {"mine/__init__.py": ""}, True),
        ('[build-system]\nrequires = ["setuptools"]\n', {"mine/__init__.py": "", "setup.py": ""}, False),
        (
            '[build-system]\nrequires = ["setuptools"]\n[tool.setuptools.package-dir]\n"" = "lib"\n',
            {"lib/mine.py": ""},
            False,
        ),
        (
            '[build-system]\nrequires = ["poetry-core"]\nbuild-backend = "poetry.core.masonry.api"\n',
            {"mine.py": ""},
            False,
        ),
    ],
)
def test_only_usual_pure_layouts_are_used_as_they_are(  # noqa: PLR0917  fixtures and cases
    site: Site,
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tables: str,
    files: dict[str, str],
    as_it_is: bool,
) -> None:
    built: list[object] = []
    monkeypatch.setattr(Uv, "run", lambda _, words, *__, **___: built.append(words))
    write(tree, {"pyproject.toml": project(more=tables), **files})
    UvProject(site).activate(tree, AUTO, tmp_path / "root", tmp_path / "overlay", a_builder(site))
    assert (not built) is as_it_is


def test_version_in_a_file_is_read_and_a_computed_one_built(
    site: Site, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[object] = []
    monkeypatch.setattr(Uv, "run", lambda _, words, *__, **___: built.append(words))
    start = '[project]\nname = "mine"\ndynamic = ["version"]\n' + HATCH
    write(
        tree,
        {
            "pyproject.toml": start + '[tool.hatch.version]\npath = "src/mine/__init__.py"\n',
            "src/mine/__init__.py": '__version__ = "7.1"\n',
        },
    )
    UvProject(site).activate(tree, AUTO, tmp_path / "root", tmp_path / "overlay", a_builder(site))
    assert (tmp_path / "overlay/lib/mine-7.1.dist-info/METADATA").exists()
    write(tree, {"pyproject.toml": start + '[tool.hatch.version]\nsource = "vcs"\n'})
    UvProject(site).activate(tree, AUTO, tmp_path / "root", tmp_path / "overlay", a_builder(site))
    assert len(built) == 1


def test_project_that_is_no_package_has_no_overlay(site: Site, tree: Path, tmp_path: Path) -> None:
    write(tree, {"pyproject.toml": project(dependencies='"alpha==1.0"')})
    environment = UvProject(site)
    recipe = environment.plan(tree, AUTO)
    assert recipe is not None
    assert (recipe.locked, recipe.title) == (False, f"pyproject.toml, Python {PYTHON}")
    root = made(environment, tree, site)
    activation = environment.activate(tree, AUTO, root, tmp_path / "overlay", a_builder(site))
    assert dict(activation.env) == {"VIRTUAL_ENV": str(root)}
    assert run(activation, tree, "python", "-c", "import alpha; print(alpha.VERSION)") == "1.0"


def test_groups_and_extras_decide_what_is_installed(site: Site, tree: Path) -> None:
    more = (
        '[project.optional-dependencies]\ncuda = ["beta"]\n'
        '[dependency-groups]\ndev = ["alpha==1.0"]\ntrain = ["gamma"]\n'
    )
    write(tree, {"pyproject.toml": project(more=more)})
    asked = EnvironmentSpec(kind=EnvironmentKind.UV, groups=("train",), extras=("cuda",))
    environment = UvProject(site)

    def installed(spec: EnvironmentSpec) -> set[str]:
        root = made(environment, tree, site, spec)
        return {path.name for path in root.glob("lib/*/site-packages/*.py")} - {"_virtualenv.py"}

    assert installed(asked) == {"alpha.py", "beta.py", "gamma.py"}
    assert installed(UV) == {"alpha.py"}
    unlocked = key(environment, tree, asked)
    lock(site, tree)
    assert key(environment, tree, asked) not in {unlocked, key(environment, tree)}
    assert installed(asked) == {"alpha.py", "beta.py", "gamma.py"}


def test_workspace_members_go_into_the_overlay(site: Site, tree: Path, tmp_path: Path) -> None:
    root_more = (
        HATCH
        + '[tool.uv.sources]\nhelper = { workspace = true }\n[tool.uv.workspace]\nmembers = ["packages/*"]\n'
    )
    write(
        tree,
        {
            "pyproject.toml": project(dependencies='"helper"', more=root_more),
            "src/mine/__init__.py": "import helper; SAID = helper.SAID\n",
            "packages/helper/pyproject.toml": project(name="helper", dependencies='"alpha"', more=HATCH),
            "packages/helper/src/helper/__init__.py": "import alpha; SAID = alpha.VERSION\n",
            "packages/other/pyproject.toml": project(name="other", dependencies='"gamma"', more=HATCH),
            "packages/other/src/other/__init__.py": "",
        },
    )
    lock(site, tree)
    environment = UvProject(site)
    root = made(environment, tree, site)
    activation = environment.activate(tree, AUTO, root, tmp_path / "overlay", a_builder(site))
    assert run(activation, tree, "python", "-c", "import mine; print(mine.SAID)") == "2.0"
    assert not list(root.glob("lib/*/site-packages/helper*"))
    assert "packages/other" not in activation.env["PYTHONPATH"]
    member = EnvironmentSpec(kind=EnvironmentKind.UV, file="packages/other")
    assert key(environment, tree, member) != key(environment, tree)
    root = made(environment, tree, site, member)
    activation = environment.activate(tree, member, root, tmp_path / "overlay2", a_builder(site))
    assert run(activation, tree, "python", "-c", "import gamma, other; print('ok')") == "ok"


def test_key_covers_what_decides_and_nothing_else(site: Site, tree: Path) -> None:
    write(tree, {"pyproject.toml": project(), "train.py": "1"})
    first = key(UvProject(site), tree)
    write(tree, {"train.py": "2"})
    assert key(UvProject(site), tree) == first
    other = Site(site.caches, site.built, environ={**site.environ, "UV_DEFAULT_INDEX": "http://other"})
    keys = {
        first,
        key(UvProject(other), tree),
        key(UvProject(site), tree, EnvironmentSpec(kind=EnvironmentKind.UV, python="3.99")),
        key(UvProject(site), tree, EnvironmentSpec(kind=EnvironmentKind.UV, extras=("a",))),
        key(UvProject(site), tree, EnvironmentSpec(kind=EnvironmentKind.UV, groups=("a",))),
    }
    write(tree, {"pyproject.toml": project(dependencies='"alpha"')})
    assert len(keys | {key(UvProject(site), tree)}) == 6


def test_environment_whose_interpreter_is_gone_is_built_anew(site: Site, tree: Path) -> None:
    write(tree, {"pyproject.toml": project()})
    first = key(UvProject(site), tree)
    python = site.built / f"uv-{first}" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to("/nonexistent/python")
    assert key(UvProject(site), tree) != first
    python.unlink()
    python.symlink_to(sys.executable)
    assert key(UvProject(site), tree) == first


@pytest.mark.parametrize(
    ("files", "spec", "why"),
    [
        ({}, UV, "no pyproject.toml"),
        ({"pyproject.toml": "[tool.x]\n"}, UV, r"no \[project\] table"),
        ({"pyproject.toml": "[project\n"}, AUTO, "not valid TOML"),
        ({}, EnvironmentSpec(kind=EnvironmentKind.REQUIREMENTS, file="r.txt"), "no r.txt"),
        ({"requirements.txt": "-r absent.txt\n"}, AUTO, "includes absent.txt"),
        ({"requirements.txt": "-r ../../etc/x\n"}, AUTO, "leads out"),
        ({"requirements.txt": "-e ./absent\n"}, AUTO, "absent is required"),
        ({"requirements.txt": "./absent-1-py3-none-any.whl\n"}, AUTO, "is required"),
        ({}, EnvironmentSpec(kind=EnvironmentKind.SCRIPT, file="t.py"), "no t.py"),
        ({"t.py": "1"}, EnvironmentSpec(kind=EnvironmentKind.SCRIPT, file="t.py"), "no inline metadata"),
        ({}, EnvironmentSpec(kind=EnvironmentKind.CONDA, file="e.yml"), "no e.yml"),
        ({"environment.yml": ""}, AUTO, "none of micromamba, mamba, conda, pixi"),
        (
            {},
            EnvironmentSpec(kind=EnvironmentKind.NAMED, name="x"),
            "no environment named 'x'; it offers: none",
        ),
        ({}, EnvironmentSpec(kind=EnvironmentKind.SYSTEM, python="3.99"), "no python3.99"),
    ],
)
def test_what_cannot_be_planned_is_an_error_that_says_why(
    tmp_path: Path, tree: Path, files: dict[str, str], spec: EnvironmentSpec, why: str
) -> None:
    write(tree, files)
    site = Site(tmp_path / "caches", tmp_path / "built", environ={"PATH": "/usr/bin"})
    with pytest.raises(BuildError, match=why):
        first_to_apply(site, tree, spec)


@pytest.mark.parametrize("name", ["pyproject.toml", "requirements.txt"])
def test_files_behind_a_link_out_of_the_repository_are_not_read(
    site: Site, tree: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "outside").write_text(project())
    (tree / name).symlink_to(tmp_path / "outside")
    environment: Environment = UvProject(site) if name == "pyproject.toml" else RequirementsFile(site)
    with pytest.raises(BuildError, match="leads out of the repository"):
        environment.plan(tree, AUTO)


def test_failed_build_says_what_uv_said(site: Site, tree: Path) -> None:
    write(tree, {"pyproject.toml": project(dependencies='"absent-package"')})
    with pytest.raises(BuildError, match=r"uv said:\n(.|\n)*absent-package"):
        made(UvProject(site), tree, site)
    assert Cache(site.built).entries() == []


def test_computed_or_local_dependencies_without_a_lock_are_told(site: Site, tree: Path) -> None:
    for text in (
        '[project]\nname = "mine"\nversion = "1"\ndynamic = ["dependencies"]\n' + HATCH,
        project(dependencies='"x"', more='[tool.uv.sources]\nx = { path = "x" }\n'),
    ):
        write(tree, {"pyproject.toml": text})
        with pytest.raises(BuildError, match="computed, or are local") as caught:
            made(UvProject(site), tree, site)
        assert "commit uv.lock" in caught.value.mend


def test_building_stops_when_asked_and_takes_no_longer_than_allowed(site: Site, tree: Path) -> None:
    write(tree, {"pyproject.toml": project(dependencies='"alpha"')})

    def stop() -> None:
        raise Cancelled("The run was cancelled.")

    into = site.built / "x"
    with pytest.raises(Cancelled):
        UvProject(site).build(tree, AUTO, into, a_builder(site, stop=stop))
    hasty = Site(site.caches, site.built, environ=site.environ, timeout=0.0)
    with pytest.raises(BuildError, match="not built within 0 s"):
        UvProject(hasty).build(tree, AUTO, into, a_builder(hasty))


def test_progress_is_what_uv_says(site: Site, tree: Path) -> None:
    write(tree, {"pyproject.toml": project(dependencies='"alpha"')})
    said: list[str] = []
    UvProject(site).build(
        tree, AUTO, site.built / "x", a_builder(site, report=lambda text, *_: said.append(text))
    )
    assert any(re.match("Resolved 1 package", line) for line in said)
    assert any(re.match("Installed 1 package", line) for line in said)


def test_uv_inherits_a_named_list_only(site: Site) -> None:
    env = Uv(site).environment(a_builder(site, code=False))
    assert "SECRET" not in env
    assert env["UV_DEFAULT_INDEX"] == site.environ["UV_DEFAULT_INDEX"]
    assert env["UV_CACHE_DIR"] == str(site.caches / "uv")
    named = Site(
        site.caches,
        site.built,
        environ={"UV_INDEX_LAB_PASSWORD": "x", "UV_CACHE_DIR": "/other", "PATH": "/a/shims:/b"},
    )
    env = Uv(named).environment(a_builder(named, code=False))
    assert (env["UV_INDEX_LAB_PASSWORD"], env["UV_CACHE_DIR"], env["PATH"]) == (
        "x",
        str(site.caches / "uv"),
        "/b",
    )


def test_torch_builds_fit_the_driver_unless_the_owner_says_otherwise(
    site: Site, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert torch_backend({}) == "auto"
    assert torch_backend({"UV_FIND_LINKS": "/wheels"}) == ""
    assert torch_backend({"UV_FIND_LINKS": "/wheels", "UV_TORCH_BACKEND": "cu128"}) == "cu128"
    assert driver(tmp_path / "absent") == ""
    (tmp_path / "version").write_text("580.65\n")
    assert driver(tmp_path / "version") == "580.65"
    write(tree, {"requirements.txt": "torch\n"})
    plain = Site(site.caches, site.built, environ={})
    before = key(RequirementsFile(plain), tree)
    monkeypatch.setattr(tool, "driver", lambda: "580.65")
    assert key(RequirementsFile(plain), tree) != before
    words: list[tuple[object, ...]] = []
    monkeypatch.setattr(Uv, "run", lambda _, given, *__, **___: words.append(given))
    RequirementsFile(plain).build(tree, AUTO, tmp_path / "into", a_builder(plain))
    assert words[1][4:6] == ("--torch-backend", "auto")


def test_unchanged_environment_is_reused_without_uv(
    site: Site, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tree, {"pyproject.toml": project(dependencies='"alpha"', more=HATCH), "src/mine/__init__.py": ""})
    lock(site, tree)
    made(UvProject(site), tree, site)
    monkeypatch.setattr(Uv, "run", lambda *_, **__: pytest.fail("a process was started"))
    environment, cache = UvProject(site), Cache(site.built)
    for number in range(2):
        recipe = environment.plan(tree, AUTO)
        assert recipe is not None
        root = cache.get(recipe.key)
        assert root is not None
        environment.activate(tree, AUTO, root, tmp_path / f"overlay{number}", a_builder(site))


def test_space_of_uvs_own_cache_can_be_given_back_and_environments_stand(site: Site, tree: Path) -> None:
    write(tree, {"pyproject.toml": project(dependencies='"alpha"')})
    clean(site)
    root = made(UvProject(site), tree, site)
    clean(site)
    assert not (site.caches / "uv" / "archive-v0").exists()
    assert run(Activation(path=(root / "bin",)), tree, "alpha") == "alpha 2.0"


# --- requirements -----------------------------------------------------------------------------------------


def test_requirements_with_includes_constraints_and_own_package(
    site: Site, tree: Path, tmp_path: Path
) -> None:
    name, content = wheel("delta", "3.0")
    (tree / "wheels").mkdir()
    (tree / "wheels" / name).write_bytes(content)
    write(
        tree,
        {
            "requirements.txt": f"# all\n-r more/base.txt\n-c limits.txt\n-e .[extra]  \n./wheels/{name}\n",
            "more/base.txt": "--requirement=deep.txt\nbeta\n",
            "more/deep.txt": "",
            "limits.txt": "alpha<2\n",
            "pyproject.toml": project(
                dependencies='"alpha"', more='[project.optional-dependencies]\nextra = ["gamma"]\n' + HATCH
            ),
            "src/mine/__init__.py": "SAID = 'mine'\n",
        },
    )
    environment = RequirementsFile(site)
    recipe = environment.plan(tree, REQUIREMENTS)
    assert recipe is not None
    assert not recipe.locked
    root = made(environment, tree, site, REQUIREMENTS)
    activation = environment.activate(tree, REQUIREMENTS, root, tmp_path / "overlay", a_builder(site))
    probe = "import alpha, beta, gamma, delta, mine; print(alpha.VERSION, delta.VERSION, mine.SAID)"
    assert run(activation, tree, "python", "-c", probe) == "1.0 3.0 mine"
    assert not list(root.glob("lib/*/site-packages/mine*"))
    before = recipe.key
    write(tree, {"limits.txt": "alpha<3\n"})
    assert key(environment, tree, REQUIREMENTS) != before


def test_requirements_are_locked_when_every_line_is(tree: Path) -> None:
    write(tree, {"a.txt": "alpha==1.0 \\\n  --hash=sha256:00\nbeta @ https://h/b.whl\n--no-binary :all:\n"})
    assert collect(tree, "a.txt").locked
    write(tree, {"b.txt": "-r a.txt\ngamma>=1  # ==\n"})
    assert not collect(tree, "b.txt").locked


@pytest.mark.parametrize(
    "line",
    [
        "git+https://h/o/n@v1",
        "-e git+https://h/o/n#egg=n",
        "alpha @ https://h/a.whl",
        "--index-url https://h/simple",
        "alpha[x]>=1; python_version > '3'",
        "https://h/a-1.tar.gz",
    ],
)
def test_lines_that_are_not_local_are_left_to_uv(tree: Path, line: str) -> None:
    write(tree, {"requirements.txt": line + "\n"})
    found = collect(tree, "requirements.txt")
    assert found.texts == {"requirements.txt": line + "\n"}
    assert not found.packages


def test_requirements_include_each_other_without_end(tree: Path) -> None:
    write(tree, {"a.txt": "-r b.txt\n", "b.txt": "-r a.txt\n"})
    assert set(collect(tree, "a.txt").texts) == {"a.txt", "b.txt"}


# --- scripts ----------------------------------------------------------------------------------------------

SCRIPT = (
    '# /// script\n# requires-python = ">=3.11"\n# dependencies = [\n#   "alpha<2",\n# ]\n# ///\nprint({})\n'
)


def test_script_gets_what_its_metadata_asks_for(site: Site, tree: Path, tmp_path: Path) -> None:
    write(tree, {"train.py": SCRIPT.format("'one'")})
    spec = EnvironmentSpec(kind=EnvironmentKind.SCRIPT, file="train.py")
    environment = InlineScript(site)
    root = made(environment, tree, site, spec)
    activation = environment.activate(tree, spec, root, tmp_path / "overlay", a_builder(site))
    assert run(activation, tree, "python", "-c", "import alpha; print(alpha.VERSION)") == "1.0"
    before = key(environment, tree, spec)
    write(tree, {"train.py": SCRIPT.format("'two'")})
    assert key(environment, tree, spec) == before, "a change of the code builds nothing"
    assert key(environment, tree) == before, "auto finds the only script with metadata"
    write(tree, {"train.py": SCRIPT.replace("alpha<2", "alpha").format("'two'")})
    assert key(environment, tree, spec) != before


def test_locked_script_gets_what_is_locked(site: Site, tree: Path) -> None:
    write(tree, {"train.py": SCRIPT.replace("alpha<2", "alpha").format("1")})
    argv = [
        str(tool.uv_binary()),
        "lock",
        "--quiet",
        "--script",
        "train.py",
        "--upgrade-package",
        "alpha==1.0",
    ]
    subprocess.run(argv, cwd=tree, env=Uv(site).environment(a_builder(site)), check=True)
    environment = InlineScript(site)
    recipe = environment.plan(tree, AUTO)
    assert recipe is not None
    assert recipe.locked
    root = made(environment, tree, site)
    assert run(Activation(path=(root / "bin",)), tree, "alpha") == "alpha 1.0"


def test_scripts_without_a_clear_one_are_left(site: Site, tree: Path) -> None:
    write(tree, {"a.py": SCRIPT.format(1), "b.py": SCRIPT.format(2)})
    assert InlineScript(site).plan(tree, AUTO) is None


def test_metadata_block_is_found_as_the_standard_says() -> None:
    assert metadata(b"import x\n# /// script\n# a = 1\n#\n# ///\n") == "# /// script\n# a = 1\n#\n# ///\n"
    assert metadata(b"# /// script\r\n# a = 1\r\n# ///\r\n") is not None
    assert metadata(b"# /// script\n# a = 1\n") is None
    assert metadata(b"# /// pyproject\n# a = 1\n# ///\n") is None


@pytest.mark.parametrize(
    ("command", "script"),
    [
        ("python train.py --lr 0.1", "train.py"),
        (("python", "-u", "code/train.py"), "code/train.py"),
        ("torchrun --nproc 2 train.py", "train.py"),
        ("python -m train", ""),
        ("echo 'unbalanced", ""),
        ("python /opt/x.py", ""),
    ],
)
def test_script_of_a_command_is_its_first_python_file(command: str | tuple[str, ...], script: str) -> None:
    assert script_of(command) == script


# --- conda ------------------------------------------------------------------------------------------------


def stand_in(tmp_path: Path, name: str, *, code: int = 0) -> Path:
    """An executable that writes down how it was called, and makes what the real one would."""
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    path = tools / name
    path.write_text(
        "#!/usr/bin/python3\nimport json, os, pathlib, sys\n"
        f"log = pathlib.Path({str(tmp_path / 'called')!r})\n"
        "with log.open('a') as out: out.write(json.dumps([sys.argv[1:], dict(os.environ)]) + '\\n')\n"
        "print('Linking numpy'); print('tool says: no space', file=sys.stderr)\n"
        "words = sys.argv\n"
        "prefix = words[words.index('--prefix') + 1] if '--prefix' in words else "
        "(words[words.index('--manifest-path') + 1] + '/.pixi/envs/default' if 'install' in words else '')\n"
        "if prefix: os.makedirs(prefix + '/bin', exist_ok=True)\n"
        "if prefix: os.symlink(sys.executable, prefix + '/bin/python')\n"
        f"sys.exit({code})\n"
    )
    path.chmod(0o755)
    return tools


@pytest.mark.parametrize("name", ["micromamba", "mamba", "conda", "pixi"])
def test_conda_environment_is_made_by_the_tool_that_is_there(
    site: Site, tree: Path, tmp_path: Path, name: str
) -> None:
    # No conda tool can be installed here: a recording stand-in shows what it would be asked.
    tools = stand_in(tmp_path, name)
    known = Site(
        site.caches, site.built, environ={"PATH": f"{tools}:/usr/bin", "SECRET": "x", "CONDARC": "/c"}
    )
    write(tree, {"environment.yml": "dependencies: [numpy]\n"})
    environment = CondaFile(known)
    recipe = environment.plan(tree, AUTO)
    assert recipe is not None
    assert (recipe.title, recipe.locked) == (f"environment.yml, {name}", False)
    said: list[str] = []
    cache = Cache(site.built)
    root, _ = cache.build(
        recipe.key,
        lambda into: environment.build(
            tree, AUTO, into, a_builder(site, report=lambda text, *_: said.append(text))
        ),
    )
    calls = [json.loads(line) for line in (tmp_path / "called").read_text().splitlines()]
    words = calls[-1][0]
    expected = {
        "micromamba": ["create", "--yes", "--prefix", str(root), "--file"],
        "mamba": ["env", "create", "--yes", "--prefix", str(root), "--file"],
        "conda": ["env", "create", "--yes", "--prefix", str(root), "--file"],
        "pixi": ["install", "--manifest-path", str(root)],
    }
    assert words[: len(expected[name])] == expected[name]
    assert "SECRET" not in calls[-1][1]
    assert calls[-1][1]["CONDARC"] == "/c"
    assert "Linking numpy" in said
    activation = environment.activate(tree, AUTO, root, tmp_path / "overlay", a_builder(site))
    assert (activation.path[0] / "python").exists()
    assert activation.env["CONDA_PREFIX"] == str(activation.path[0].parent)


def test_failing_conda_tool_is_quoted(site: Site, tree: Path, tmp_path: Path) -> None:
    tools = stand_in(tmp_path, "mamba", code=1)
    known = Site(site.caches, site.built, environ={"PATH": f"{tools}:/usr/bin"})
    write(tree, {"environment.yml": ""})
    with pytest.raises(BuildError, match="mamba said:\ntool says: no space"):
        made(CondaFile(known), tree, known)


# --- what is there already --------------------------------------------------------------------------------


def test_named_environment_is_the_owners_folder(tree: Path, tmp_path: Path) -> None:
    for kind in ("venv", "conda", "prefix"):
        (tmp_path / kind / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "pyvenv.cfg").write_text("")
    (tmp_path / "conda" / "conda-meta").mkdir()
    offered = {kind: str(tmp_path / kind) for kind in ("venv", "conda", "prefix")} | {
        "gone": str(tmp_path / "gone")
    }
    environment = Named(Site(tmp_path, tmp_path, offered=offered))

    def named(name: str) -> EnvironmentSpec:
        return EnvironmentSpec(kind=EnvironmentKind.NAMED, name=name)

    recipe = environment.plan(tree, named("venv"))
    assert recipe is not None
    assert recipe.key == ""
    variables = {
        kind: set(
            environment.activate(
                tree, named(kind), tree, tree, a_builder(Site(tmp_path, tmp_path / "built"))
            ).env
        )
        for kind in offered
        if kind != "gone"
    }
    assert variables == {
        "venv": {"VIRTUAL_ENV"},
        "conda": {"CONDA_PREFIX", "CONDA_DEFAULT_ENV"},
        "prefix": set(),
    }
    with pytest.raises(BuildError, match="offers as 'gone' is not there"):
        environment.plan(tree, named("gone"))
    assert environment.plan(tree, AUTO) is None


def test_machines_python_is_found_under_both_names_and_is_not_ours(tree: Path, tmp_path: Path) -> None:
    environment = System(Site(tmp_path, tmp_path, environ={"PATH": f"{sys.prefix}/bin:/usr/bin:/bin"}))
    recipe = environment.plan(tree, AUTO)
    assert recipe is not None
    assert recipe.key == ""
    activation = environment.activate(
        tree, AUTO, tmp_path, tmp_path / "overlay", a_builder(Site(tmp_path, tmp_path / "built"))
    )
    for name in ("python", "python3"):
        prefix = run(activation, tree, name, "-c", "import sys; print(sys.prefix)")
        assert prefix != sys.prefix


def test_python_of_another_version_is_called_python_too(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3.99").symlink_to(own().request)
    environment = System(Site(tmp_path, tmp_path, environ={"PATH": str(tmp_path / "bin")}))
    spec = EnvironmentSpec(kind=EnvironmentKind.SYSTEM, python="3.99")
    activation = environment.activate(
        tree, spec, tmp_path, tmp_path / "overlay", a_builder(Site(tmp_path, tmp_path / "built"))
    )
    assert run(activation, tree, "python", "-c", "print('ok')") == "ok"


def test_shims_of_pyenv_are_replaced_by_the_real_interpreter(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "shims").mkdir()
    (tmp_path / "shims" / "python3").symlink_to("/bin/false")
    environment = System(Site(tmp_path, tmp_path, environ={"PATH": str(tmp_path / "shims")}))
    activation = environment.activate(
        tree, AUTO, tmp_path, tmp_path / "overlay", a_builder(Site(tmp_path, tmp_path / "built"))
    )
    assert run(activation, tree, "python3", "-c", "print('ok')") == "ok"


# --- small things -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("specifier", "good", "bad"),
    [
        (">=3.11", (3, 11, 0), (3, 10, 9)),
        (">=3.11,<3.13", (3, 12, 9), (3, 13, 0)),
        ("==3.12.*", (3, 12, 4), (3, 13, 0)),
        ("==3.12", (3, 12, 0), (3, 12, 1)),
        ("~=3.11", (3, 13, 0), (4, 0, 0)),
        ("~=3.11.2", (3, 11, 5), (3, 12, 0)),
        ("!=3.12.*,>3.10", (3, 11, 1), (3, 12, 3)),
        ("<=3.12", (3, 12, 0), (3, 12, 1)),
        ("", (3, 11, 0), ()),
        (">=3.11rc1", (), (3, 12, 0)),
    ],
)
def test_python_specifiers_are_read_as_pep_440_says(
    specifier: str, good: tuple[int, ...], bad: tuple[int, ...]
) -> None:
    assert not good or fits(specifier, good)
    assert not bad or not fits(specifier, bad)


def test_python_is_chosen_by_job_then_repository_then_ours(site: Site, tree: Path) -> None:
    def title(spec: EnvironmentSpec = AUTO) -> str:
        recipe = UvProject(site).plan(tree, spec)
        assert recipe is not None
        return recipe.title.partition(", ")[2]

    write(tree, {"pyproject.toml": project()})
    assert title() == f"Python {PYTHON}"
    write(tree, {".python-version": "3.42\n"})
    assert title() == "Python 3.42"
    assert title(EnvironmentSpec(kind=EnvironmentKind.UV, python="3.43")) == "Python 3.43"
    write(tree, {".python-version": "pypy\n"})
    assert title() == f"Python {PYTHON}"
    write(tree, {"pyproject.toml": project().replace(">=3.11", ">=3.77")})
    assert title() == "Python >=3.77"


def test_last_words_hold_no_colours_and_no_passwords() -> None:
    text = "first\n" * 30 + "\x1b[31merror\x1b[0m: https://me:word@host/simple failed\n"
    assert lines_tail(text, count=2) == "first\nerror: https://host/simple failed"


# --- PyPI itself ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_packages_come_from_the_real_index(tmp_path: Path, tree: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    site = Site(tmp_path / "caches", tmp_path / "built", environ=environ)
    write(tree, {"requirements.txt": "iniconfig==2.0.0\n"})
    root = made(RequirementsFile(site), tree, site)
    probe = "import iniconfig, importlib.metadata as m; print(m.version('iniconfig'))"
    assert run(Activation(path=(root / "bin",)), tree, "python", "-c", probe) == "2.0.0"
