"""A repository's own packages, in a folder of one attempt, never cached: every commit runs its own code.

A package of pure Python in a usual layout is not built. As with an editable install its sources are used
where they are, in the attempt's tree, and the overlay gets what an installation would add: the metadata, the
entry points, the scripts. That runs none of the repository's code and takes a millisecond. Everything else (C
extensions, build hooks, unusual layouts, versions that are computed) is built by uv from the tree.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pushtrain.adapters.environments.site import inside, read, table, texts, toml
from pushtrain.adapters.environments.tool import Task, Uv
from pushtrain.ports import Activation, Builder

_LIBRARY: Final = "lib"
_HATCH_VERSION: Final = re.compile(
    rb"^(?:__version__|VERSION)(?:\s*:\s*str)?\s*=\s*[\"']v?([^\"']+)[\"']", re.MULTILINE
)
_ENTRY: Final = re.compile(r"\s*([\w.]+)\s*:\s*([\w.]+)\s*(\[.*\])?\s*")
_COMPUTED: Final = frozenset({"entry-points", "gui-scripts", "scripts"})


@dataclass(frozen=True, slots=True)
class _Package:
    """A package whose sources are used where they are."""

    name: str
    version: str
    sources: Path
    """The folder that goes on the path."""
    project: Mapping[str, Any]


def is_package(pyproject: Mapping[str, Any]) -> bool:
    """Whether a project is installed at all, by uv's rule."""
    said = table(pyproject, "tool", "uv").get("package")
    return said if isinstance(said, bool) else "build-system" in pyproject


def activate(
    uv: Uv,
    tree: Path,
    packages: Sequence[Path],
    root: Path,
    overlay: Path,
    *,
    builder: Builder,
) -> Activation:
    """How to run in the environment at `root`, with the repository's own packages on top.

    Args:
        uv: For packages that must be built.
        tree: The checked-out commit.
        packages: Folders with a project, or wheels, in the tree.
        root: The environment.
        overlay: The attempt's own folder.
        builder: Runs their code.

    Raises:
        BuildError: A package could not be built.
    """
    paths: list[Path] = []
    building: list[Path] = []
    library = overlay / _LIBRARY
    for folder in packages:
        package = _as_it_is(tree, folder)
        if package is None:
            building.append(folder)
        else:
            _install(package, library, overlay / "bin", root / "bin" / "python")
            paths.append(package.sources)
    if building:
        names = [name for folder in building if (name := _name(tree, folder))]
        fresh = [word for name in names for word in ("--reinstall-package", name)]
        uv.run(
            ("pip", "install", "--python", root, "--no-deps", "--target", library, *fresh, *building),
            Task(
                tree,
                f"The repository's own package {names[0] if names else building[0].name}",
                builder,
                (overlay,),
                (root,),
            ),
        )
    env = {"VIRTUAL_ENV": str(root)}
    if packages:
        env["PYTHONPATH"] = ":".join(map(str, dict.fromkeys([library, *paths])))
    own = (overlay / "bin", library / "bin") if packages else ()
    return Activation(env=env, path=(*own, root / "bin"))


def _name(tree: Path, folder: Path) -> str:
    content = read(tree, (folder / "pyproject.toml").relative_to(tree))
    return str(table(toml(content, "pyproject.toml"), "project").get("name", "")) if content else ""


def _as_it_is(tree: Path, folder: Path) -> _Package | None:
    """The package when its sources can be used where they are; None when it must be built."""
    content = read(tree, (folder / "pyproject.toml").relative_to(tree))
    if content is None:
        return None
    pyproject = toml(content, "pyproject.toml")
    project = table(pyproject, "project")
    name, dynamic = project.get("name"), set(texts(project.get("dynamic")))
    if not isinstance(name, str) or dynamic & _COMPUTED:
        return None
    version = _version(tree, folder, pyproject)
    sources = _sources(folder, name, pyproject)
    if version is None or sources is None:
        return None
    return _Package(name, version, inside(tree, sources.relative_to(tree)), project)


def _version(tree: Path, folder: Path, pyproject: Mapping[str, Any]) -> str | None:
    """The version as it stands in a file; None when it has to be computed."""
    said = table(pyproject, "project").get("version")
    if isinstance(said, str):
        return said
    hatch = table(pyproject, "tool", "hatch", "version")
    if set(hatch) != {"path"} or not isinstance(hatch["path"], str):
        return None
    found = _HATCH_VERSION.search(read(tree, (folder / hatch["path"]).relative_to(tree)) or b"")
    return found[1].decode() if found else None


def _sources(folder: Path, name: str, pyproject: Mapping[str, Any]) -> Path | None:
    """Where the usual layouts of the usual backends have their sources; None for any other."""
    backend = table(pyproject, "build-system").get("build-backend", "setuptools.build_meta:__legacy__")
    module = re.sub(r"[-_.]+", "_", name)
    if backend == "hatchling.build":
        return _hatch_sources(folder, module, pyproject)
    if backend == "uv_build":
        known = not table(pyproject, "tool", "uv", "build-backend")
        return _source_folder(folder / "src", module) if known else None
    if backend == "flit_core.buildapi":
        return _usual(folder, module) if not table(pyproject, "tool", "flit") else None
    if str(backend).startswith("setuptools.build_meta"):
        own = table(pyproject, "tool", "setuptools")
        legacy = any((folder / one).exists() for one in ("setup.py", "setup.cfg", "MANIFEST.in"))
        usual = not own or own == {"packages": {"find": {"where": ["src"]}}}
        return _usual(folder, module) if usual and not legacy else None
    return None


def _hatch_sources(folder: Path, module: str, pyproject: Mapping[str, Any]) -> Path | None:
    build = table(pyproject, "tool", "hatch", "build")
    wheel = table(build, "targets", "wheel")
    if set(build) - {"targets"} or set(wheel) - {"packages"}:
        return None
    packages = texts(wheel.get("packages"))
    if not packages:
        return _usual(folder, module)
    parents = {(folder / one).parent for one in packages}
    present = all((folder / one).is_dir() for one in packages)
    return parents.pop() if len(parents) == 1 and present else None


def _usual(folder: Path, module: str) -> Path | None:
    return _source_folder(folder / "src", module) or _source_folder(folder, module)


def _source_folder(folder: Path, module: str) -> Path | None:
    for name in dict.fromkeys((module, module.lower())):
        if (folder / name / "__init__.py").is_file() or (folder / f"{name}.py").is_file():
            return folder
    return None


# --- what an installation would add -----------------------------------------------------------------------


def _install(package: _Package, library: Path, scripts: Path, python: Path) -> None:
    name = re.sub(r"[-_.]+", "_", package.name)
    info = library / f"{name}-{package.version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    editable = {"url": package.sources.as_uri(), "dir_info": {"editable": True}}
    files = {
        "METADATA": _metadata(package),
        "INSTALLER": "pushtrain\n",
        "direct_url.json": json.dumps(editable),
        "entry_points.txt": _entry_points(package.project),
    }
    for file, content in files.items():
        (info / file).write_text(content)
    record = [f"{info.name}/{file},," for file in (*files, "RECORD")]
    (info / "RECORD").write_text("\n".join(record) + "\n")
    scripts.mkdir(parents=True, exist_ok=True)
    for group in ("scripts", "gui-scripts"):
        for script, target in table(package.project, group).items():
            _write_script(scripts, script, str(target), python)


def _metadata(package: _Package) -> str:
    project = package.project
    lines = ["Metadata-Version: 2.1", f"Name: {package.name}", f"Version: {package.version}"]
    for field, key in (("Summary", "description"), ("Requires-Python", "requires-python")):
        if isinstance(project.get(key), str):
            lines.append(f"{field}: {' '.join(project[key].split())}")
    lines += [f"Requires-Dist: {one}" for one in texts(project.get("dependencies"))]
    for extra, wanted in table(project, "optional-dependencies").items():
        lines.append(f"Provides-Extra: {extra}")
        for one in texts(wanted):
            requirement, _, marker = one.partition(";")
            also = f"({marker.strip()}) and " if marker else ""
            lines.append(f"Requires-Dist: {requirement.strip()} ; {also}extra == '{extra}'")
    return "\n".join(lines) + "\n"


def _entry_points(project: Mapping[str, Any]) -> str:
    groups = {
        "console_scripts": table(project, "scripts"),
        "gui_scripts": table(project, "gui-scripts"),
        **{group: table(project, "entry-points", group) for group in table(project, "entry-points")},
    }
    blocks = [
        "\n".join([f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())])
        for group, entries in groups.items()
        if entries
    ]
    return "\n\n".join(blocks) + "\n"


def _write_script(folder: Path, name: str, target: str, python: Path) -> None:
    found = _ENTRY.fullmatch(target)
    if found is None or not re.fullmatch(r"[\w.-]+", name) or name in {".", ".."}:
        return
    module, thing = found[1], found[2]
    first = thing.partition(".")[0]
    path = folder / name
    # A shell starts the interpreter: a `#!` line may be too short for its path, and must not hold a space.
    path.write_text(
        "#!/bin/sh\n"
        f"""'''exec' "{python}" "$0" "$@"\n' '''\n"""
        "import sys\n"
        f"from {module} import {first}\n"
        'if __name__ == "__main__":\n'
        f"    sys.exit({thing}())\n"
    )
    path.chmod(0o755)
