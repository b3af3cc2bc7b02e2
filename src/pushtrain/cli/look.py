"""What a repository looks like to `pushtrain init`: its training script, its environment, its outputs.

Looks at names first and reads a few small files. Each guess comes with its reason, told to the person.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from pushtrain.core.text import toml

_SCRIPTS = (
    "train.py",
    "src/train.py",
    "scripts/train.py",
    "training/train.py",
    "main.py",
    "run.py",
    "src/main.py",
)
_OUTPUTS = (
    "outputs",
    "output",
    "results",
    "checkpoints",
    "logs",
    "runs",
    "models",
    "artifacts",
    "figures",
    "plots",
)
_CONDA = ("environment.yml", "environment.yaml", "conda.yml", "conda.yaml")
NBCONVERT = 'jupyter nbconvert --to notebook --execute --output-dir "$PUSHTRAIN_RESULTS_DIR"'
_LARGEST = 256 * 1024
_INLINE = re.compile(r"^# /// script\s*$", re.MULTILINE)


@dataclass(slots=True)
class Looked:
    """What `init` writes into the file, and the reasons."""

    command: str = "python train.py"
    guessed: bool = True
    """Whether there was nothing to go by."""
    environment: str = '"system"'
    """As TOML."""
    results: list[str] = field(default_factory=list)
    gpu: bool = False
    submodules: bool = False
    found: list[str] = field(default_factory=list)
    """Sentences for people."""


def look(root: Path, files: Sequence[str]) -> Looked:
    """Look at a work tree.

    Args:
        root: Its root.
        files: Its paths, ignored ones left out.
    """
    looked = Looked()
    files = [name for name in files if name.isprintable()]
    script = _command(root, files, looked)
    _environment(root, files, script, looked)
    text = _read(root, script) if script else ""
    looked.results = [
        f"{name}/**" for name in _OUTPUTS if re.search(rf"""["']{name}["'/]|["'/]{name}/""", text)
    ]
    if looked.results:
        looked.found.append(f"{script} seems to write into {', '.join(looked.results)}")
    if re.search(r"\bcuda\b", text):
        looked.gpu = True
        looked.found.append(f"{script} speaks of CUDA: `gpus = 1` stands ready as a comment")
    if ".gitmodules" in files:
        looked.submodules = True
        looked.found.append(".gitmodules: submodules are checked out")
    return looked


def _command(root: Path, files: Sequence[str], looked: Looked) -> str:
    """Choose the command; returns the Python script that it runs, if any."""
    if "dvc.yaml" in files:
        return _choose(looked, "dvc repro", "dvc.yaml: a DVC pipeline")
    script = next((name for name in _SCRIPTS if name in files), "") or next(iter(_likely(files)), "")
    if script:
        package = script.removesuffix(".py").replace("/", ".")
        inside = f"{Path(script).parent}/__init__.py" in files
        _choose(
            looked,
            f"python -m {package}" if inside else f"python {quote(script)}",
            f"{script}: the training script",
        )
        return script
    for name in ("train.sh", "scripts/train.sh", "run.sh"):
        if name in files:
            return _choose(looked, f"bash {name}", f"{name}: a training script")
    entry = next((name for name in _entries(root, files) if "train" in name), "")
    if entry:
        return _choose(looked, entry, f"pyproject.toml: the console script {entry}")
    if "Makefile" in files and re.search(r"^train\s*:", _read(root, "Makefile"), re.MULTILINE):
        return _choose(looked, "make train", "Makefile: the target train")
    notebooks = sorted(
        (name for name in files if name.endswith(".ipynb")), key=lambda name: "train" not in name
    )
    if notebooks:
        command = f"{NBCONVERT} {quote(notebooks[0])}"
        return _choose(looked, command, f"{notebooks[0]}: a notebook, run by nbconvert")
    looked.found.append("no training script: edit `command`")
    return ""


def _choose(looked: Looked, command: str, reason: str) -> str:
    looked.command, looked.guessed = command, False
    looked.found.append(reason)
    return ""


def _likely(files: Sequence[str]) -> list[str]:
    """Python files that are called after training, the nearest to the root first."""
    named = [name for name in files if re.fullmatch(r"(train|finetune|fit)\w*\.py", name.rpartition("/")[2])]
    shown = [name for name in named if not re.search(r"(^|/)(tests?|examples?|docs)/", name)]
    return sorted(shown, key=lambda name: (name.count("/"), name))


def _environment(root: Path, files: Sequence[str], script: str, looked: Looked) -> None:
    project = _pyproject(root, files)
    requirements = sorted(
        (
            name
            for name in files
            if re.fullmatch(r"(requirements/)?[\w-]*requirements[\w-]*\.txt|requirements/\w+\.txt", name)
        ),
        key=lambda name: (name != "requirements.txt", "train" not in name, name),
    )
    conda = next((name for name in _CONDA if name in files), "")
    if script and _INLINE.search(_read(root, script)):
        looked.environment, reason = (
            f"{{script = {_toml(script)}}}",
            f"{script} names its dependencies (PEP 723)",
        )
    elif "uv.lock" in files:
        looked.environment, reason = '{uv = "."}', "uv.lock: locked dependencies"
    elif "project" in project:
        looked.environment, reason = (
            '{uv = "."}',
            "pyproject.toml: dependencies, not locked (`uv lock` pins them)",
        )
    elif requirements:
        looked.environment, reason = (
            f"{{requirements = {_toml(requirements[0])}}}",
            f"{requirements[0]}: dependencies",
        )
    elif conda:
        looked.environment, reason = f'{{conda = "{conda}"}}', f"{conda}: a conda environment"
    else:
        reason = "no dependencies are named: the executor's own Python"
    looked.found.append(reason)


def _entries(root: Path, files: Sequence[str]) -> list[str]:
    project = _pyproject(root, files).get("project")
    scripts = project.get("scripts") if isinstance(project, dict) else None
    return list(scripts) if isinstance(scripts, dict) else []


def _pyproject(root: Path, files: Sequence[str]) -> dict[str, object]:
    try:
        return toml.loads(_read(root, "pyproject.toml")) if "pyproject.toml" in files else {}
    except (ValueError, RecursionError):
        return {}


def _toml(text: str) -> str:
    """Text as TOML writes it."""
    return json.dumps(text, ensure_ascii=False)


def _read(root: Path, name: str) -> str:
    """The beginning of a file; empty when it cannot be read."""
    try:
        with (root / name).open("rb") as file:
            return file.read(_LARGEST).decode("utf-8", "replace")
    except OSError:
        return ""
