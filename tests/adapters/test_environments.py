"""The set of environments, and those of requirements, scripts, conda and what is there already."""

import importlib
import json
import os
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

from data_server import file_server
from pushtrain.adapters.environments import registry, tool
from pushtrain.adapters.environments.conda import CondaFile
from pushtrain.adapters.environments.python import fits, own
from pushtrain.adapters.environments.ready import Named, System
from pushtrain.adapters.environments.requirements import RequirementsFile, collect
from pushtrain.adapters.environments.script import InlineScript, metadata
from pushtrain.adapters.environments.site import Site, lines_tail
from pushtrain.adapters.environments.tool import Uv
from pushtrain.adapters.environments.uv import UvProject
from pushtrain.core.errors import BuildError
from pushtrain.core.text.forms import script_of
from pushtrain.core.values.jobspec import EnvironmentKind, EnvironmentSpec
from pushtrain.plumbing.disk.cache import Cache
from pushtrain.ports import Activation, Environment
from wheel_index import wheel

REQUIREMENTS = EnvironmentSpec(kind=EnvironmentKind.REQUIREMENTS)


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


@pytest.mark.slow
def test_real_packages_come_from_the_real_index(tmp_path: Path, tree: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    site = Site(tmp_path / "caches", tmp_path / "built", environ=environ)
    write(tree, {"requirements.txt": "iniconfig==2.0.0\n"})
    root = made(RequirementsFile(site), tree, site)
    probe = "import iniconfig, importlib.metadata as m; print(m.version('iniconfig'))"
    assert run(Activation(path=(root / "bin",)), tree, "python", "-c", probe) == "2.0.0"
