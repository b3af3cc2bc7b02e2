"""The house keeps its own rules: lint, types, walls, documents that cannot rot."""

import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pushtrain.adapters.environments import registry as ENVIRONMENTS  # noqa: N812  a constant by another name
from pushtrain.adapters.hosts import HOSTS
from pushtrain.adapters.metrics import FORMATS
from pushtrain.adapters.tunnels import TUNNELS

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def call(*argv: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False, timeout=170)


@pytest.mark.parametrize("argv", [("ruff", "check"), ("ruff", "format", "--check"), ("lint-imports",)])
def test_lint_is_clean(argv: tuple[str, ...]) -> None:
    done = call(str(BIN / argv[0]), *argv[1:])
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_coverage_of_the_gate_looks_at_is_there() -> None:
    """A file that has moved away would be covered whole, and its tests be missed by nobody."""
    listed = (
        (ROOT / "tests/gate.coveragerc")
        .read_text()
        .partition("include =")[2]
        .partition("[report]")[0]
        .split()
    )
    tests = (ROOT / "Makefile").read_text().partition("GATE :=")[2].partition("\ncoverage:")[0].split()
    named = [*listed, *(f"tests/{test}" for test in tests if test != "\\")]
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.slow
def test_types_are_strict_and_hold() -> None:
    done = call(str(BIN / "mypy"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("sender/service.py", "import pushtrain.executor.api.web"),
        ("core/policy.py", "import pushtrain.plumbing.sqlite.store"),
        ("core/values/run.py", "import subprocess"),
        ("executor/api/web.py", "import sqlite3"),
    ],
)
def test_a_planted_forbidden_import_fails_the_build(tmp_path: Path, module: str, line: str) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    victim = tmp_path / "src/pushtrain" / module
    victim.write_text(victim.read_text() + f"\n{line}\n")
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "src"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode != 0
    assert "BROKEN" in done.stdout


def test_generated_pages_are_current() -> None:
    done = call(sys.executable, "scripts/docs.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_link_in_the_documents_leads_somewhere() -> None:
    dead = []
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
        dead += [
            f"{page.relative_to(ROOT)} -> {target}"
            for target in targets
            if "://" not in target and not (page.parent / target).exists()
        ]
    assert dead == []


def test_every_environment_variable_of_ours_is_documented() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    pages = "\n".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    names = set(re.findall(r"\bPUSHTRAIN_[A-Z][A-Z_]*[A-Z]\b", source))
    names = {name for name in names if not name.startswith("PUSHTRAIN_DEMO_")}
    assert {name for name in names if name not in pages} == set()


@pytest.mark.parametrize("registry", [ENVIRONMENTS, HOSTS, FORMATS, TUNNELS])
def test_every_adapter_is_documented_and_can_be_imported(registry: dict[str, str]) -> None:
    pages = "\n".join(path.read_text() for path in (ROOT / "docs").glob("*.md")).lower()
    assert registry
    for name, target in registry.items():
        module, _, cls = target.partition(":")
        assert hasattr(importlib.import_module(module), cls), target
        assert name in pages, name


def test_the_readme_names_the_test_command_that_ci_runs() -> None:
    assert (ROOT / ".ci/run").read_text().rstrip().endswith("exec make test")
    assert "make test" in (ROOT / "README.md").read_text()
    assert ".ci/run" in (ROOT / ".github/workflows/ci.yml").read_text()


def test_the_lock_file_matches_the_project() -> None:
    done = call(str(BIN / "uv"), "lock", "--check", "--offline")
    assert done.returncode == 0, done.stderr


def test_the_base_install_is_lean() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert len(project["dependencies"]) <= 15
