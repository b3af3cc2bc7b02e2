"""Environments by uv, from a project and its lock."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from making import (
    AUTO,
    HATCH,
    PYTHON,
    a_builder,
    a_site,
    first_to_apply,
    key,
    made,
    project,
    run,
    served_packages,
    write,
)

from data_server import file_server, status
from pushtrain.adapters.environments import tool
from pushtrain.adapters.environments.python import own
from pushtrain.adapters.environments.requirements import RequirementsFile
from pushtrain.adapters.environments.site import Site, driver
from pushtrain.adapters.environments.tool import Uv, clean, torch_backend
from pushtrain.adapters.environments.uv import UvProject
from pushtrain.core.errors import BuildError, BuildKilled, Cancelled, IndexAway
from pushtrain.core.values.jobspec import EnvironmentKind, EnvironmentSpec
from pushtrain.plumbing.disk.cache import Cache
from pushtrain.ports import Activation, Environment

UV = EnvironmentSpec(kind=EnvironmentKind.UV)
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
def index() -> Iterator[str]:
    with file_server() as server:
        yield served_packages(server)


@pytest.fixture
def site(tmp_path: Path, index: str) -> Site:
    return a_site(tmp_path, index)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    return folder


def lock(site: Site, folder: Path) -> None:
    env = Uv(site).environment(a_builder(site))
    argv = [str(tool.uv_binary()), "lock", "--quiet", "--python", own().request]
    subprocess.run(argv, cwd=folder, env=env, check=True)


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


def test_an_index_that_does_not_answer_now_is_told_from_a_package_that_does_not_exist(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Uv.environment
    once = {"UV_HTTP_RETRIES": "0"}  # else it takes nine seconds
    monkeypatch.setattr(Uv, "environment", lambda uv, builder: usual(uv, builder) | once)
    with file_server() as server:
        url = server.serve("/simple/alpha/", b"", status(503))
        site = a_site(tmp_path, url.removesuffix("/alpha/"))
        write(tree, {"requirements.txt": "alpha\n"})
        with pytest.raises(IndexAway, match="503"):
            RequirementsFile(site).build(tree, AUTO, site.built / "x", a_builder(site))


@pytest.mark.parametrize(
    ("does", "kind"),
    [
        ("kill -9 $$", BuildKilled),
        ("echo '  cause: Connection refused (os error 111)' >&2; exit 1", IndexAway),
        ("echo '  ╰─▶ Caused by: operation timed out' >&2; exit 1", IndexAway),
        ("echo 'setup.py: Connection refused by the database' >&2; exit 1", BuildError),
        ("echo '  cause: HTTP status client error (404 Not Found)' >&2; exit 1", BuildError),
        ("printf '  cause: tunnel error: x\\nThere is no server a. Look.' >&2; exit 1", BuildError),
    ],
    ids=["killed", "refused", "slow", "its own", "gone", "no such name"],
)
def test_what_may_be_over_later_is_told_from_what_fails_again(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch, does: str, kind: type[BuildError]
) -> None:
    uv = tmp_path / "uv"
    uv.write_text(f"#!/bin/sh\n{does}\n")
    uv.chmod(0o755)
    monkeypatch.setattr(tool, "uv_binary", lambda: uv)
    write(tree, {"requirements.txt": "alpha\n"})
    site = a_site(tmp_path, "http://127.0.0.1:9/simple")
    with pytest.raises(BuildError) as caught:
        RequirementsFile(site).build(tree, AUTO, site.built / "x", a_builder(site))
    assert type(caught.value) is kind


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
