"""A project with `pyproject.toml`: from its `uv.lock` where there is one, else resolved afresh.

Only what decides about dependencies (pyproject.toml, uv.lock, the pyprojects of local packages) is copied to
a private folder, and uv works there: the repository's own code is neither built nor seen. What is cached are
the dependencies; the project itself, if it is a package, goes into the attempt's overlay.
"""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from pushtrain.adapters.environments import overlay as overlays
from pushtrain.adapters.environments.python import Interpreter, choose
from pushtrain.adapters.environments.site import Site, chosen, inside, key_of, read, table, texts, toml
from pushtrain.adapters.environments.tool import Task, Uv, settings, torch_part, uv_version
from pushtrain.core.errors import BuildError
from pushtrain.core.values.jobspec import EnvironmentKind, EnvironmentSpec
from pushtrain.ports import Activation, Builder, Recipe

_LOCAL: Final = re.compile(rb'^source = \{ (editable|virtual|directory|path) = "([^"]*)" \}', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Project:
    """A project in a tree, and everything that decides about its dependencies."""

    tree: Path
    root: Path
    """Where the lock is, or the project itself: the folder that uv sees as the whole."""
    folder: Path
    """Where the project is."""
    pyproject: dict[str, Any]
    files: dict[str, bytes]
    """Contents by path relative to `root`."""
    lock: bytes | None
    interpreter: Interpreter


class UvProject:
    """`uv.lock` or `pyproject.toml`."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._uv = Uv(site)

    def plan(self, tree: Path, spec: EnvironmentSpec) -> Recipe | None:
        """The environment of the project in `spec.file`, or at the root.

        Raises:
            BuildError: The job asks for a project that is not there, or its files cannot be read.
        """
        project = self._project(tree, spec)
        if project is None:
            return None
        environ = self._site.environ
        parts = {
            "uv": uv_version(),
            "python": project.interpreter.identity,
            "groups": sorted(spec.groups),
            "extras": sorted(spec.extras),
            "folder": str(project.folder.relative_to(project.root)),
            "settings": settings(environ),
            "torch": "" if project.lock is not None else torch_part(environ, project.files),
        }
        what = "uv.lock" if project.lock is not None else "pyproject.toml"
        return Recipe(
            key=key_of("uv", self._site, parts, project.files),
            title=f"{what}, {project.interpreter.title}",
            locked=project.lock is not None,
        )

    def build(self, tree: Path, spec: EnvironmentSpec, into: Path, builder: Builder) -> None:
        """Install the dependencies into `into`.

        Raises:
            BuildError: They could not be installed.
        """
        project = self._project(tree, spec)
        if project is None:
            raise BuildError("There is no pyproject.toml to build from.")
        self._uv.check(project.files, builder)
        self._site.caches.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=self._site.caches) as temporary:
            private = Path(temporary)
            for name, content in project.files.items():
                (private / name).parent.mkdir(parents=True, exist_ok=True)
                (private / name).write_bytes(content)
            cwd = private / project.folder.relative_to(project.root)
            if project.lock is None:
                task = Task(cwd, "The environment of pyproject.toml", builder, (private, into))
                self._resolve(project, spec, into, task)
            else:
                task = Task(cwd, "The environment of uv.lock", builder, (private, into))
                self._sync(project, spec, into, task)

    def activate(
        self, tree: Path, spec: EnvironmentSpec, root: Path, overlay: Path, builder: Builder
    ) -> Activation:
        """The environment's programs come first, and before them the repository's own packages."""
        project = self._project(tree, spec)
        packages = _packages(project) if project is not None else ()
        return overlays.activate(self._uv, tree, packages, root, overlay, builder=builder)

    def _sync(self, project: _Project, spec: EnvironmentSpec, into: Path, task: Task) -> None:
        self._uv.run(
            (
                "sync",
                "--frozen",
                "--no-install-project",
                "--no-install-workspace",
                "--no-install-local",
                "--python",
                project.interpreter.request,
                *(word for group in spec.groups for word in ("--group", group)),
                *(word for extra in spec.extras for word in ("--extra", extra)),
            ),
            task,
            env={"UV_PROJECT_ENVIRONMENT": str(into)},
        )

    def _resolve(self, project: _Project, spec: EnvironmentSpec, into: Path, task: Task) -> None:
        sources = table(project.pyproject, "tool", "uv", "sources").values()
        local = any(isinstance(one, dict) and {"path", "workspace"} & one.keys() for one in sources)
        if local or "dependencies" in texts(table(project.pyproject, "project").get("dynamic")):
            raise BuildError(
                "This pyproject.toml cannot be resolved without the project's code: its dependencies are "
                "computed, or are local packages.",
                mend="Run `uv lock`, and commit uv.lock.",
            )
        groups = dict.fromkeys([*_default_groups(project.pyproject), *spec.groups])
        self._uv.pip_install(
            (
                *(word for group in groups for word in ("--group", group)),
                *(word for extra in spec.extras for word in ("--extra", extra)),
                "-r",
                "pyproject.toml",
            ),
            task,
            root=into,
            python=project.interpreter.request,
        )

    def _project(self, tree: Path, spec: EnvironmentSpec) -> _Project | None:
        place = chosen(spec, EnvironmentKind.UV, ".")
        if place is None:
            return None
        folder = inside(tree, place, what="folder")
        root = _root(tree, folder)
        content = read(tree, (folder / "pyproject.toml").relative_to(tree))
        if content is None and spec.kind is EnvironmentKind.AUTO:
            return None
        if content is None:
            raise BuildError(f"There is no pyproject.toml in {place!r}.", mend="Name its folder in `uv`.")
        pyproject = toml(content, "pyproject.toml")
        if root is None and "project" not in pyproject:
            if spec.kind is EnvironmentKind.AUTO:
                return None
            raise BuildError(
                f"The pyproject.toml in {place!r} has no [project] table.",
                mend="Add one, or use `requirements`.",
            )
        home = root or folder
        lock = read(tree, (home / "uv.lock").relative_to(tree)) if root else None
        files = {str(folder.relative_to(home) / "pyproject.toml"): content}
        files |= _deciding(tree, home, lock)
        requires = str(table(pyproject, "project").get("requires-python", ""))
        interpreter = choose(tree, folder, asked=spec.python, requires=requires or _locked_python(lock))
        return _Project(tree, home, folder, pyproject, files, lock, interpreter)


def _root(tree: Path, folder: Path) -> Path | None:
    """The folder of the uv.lock that covers this project: its own or one above, within the tree."""
    here = folder
    while True:
        if (here / "uv.lock").is_file():
            return here
        if here in {tree, here.parent}:
            return None
        here = here.parent


def _deciding(tree: Path, home: Path, lock: bytes | None) -> dict[str, bytes]:
    """The files beside the project's own that uv must see."""
    names = ["pyproject.toml", "uv.toml"]
    if lock is not None:
        names.append("uv.lock")
        for kind, place in _LOCAL.findall(lock):
            where = place.decode()
            names.append(where if kind == b"path" else str(Path(where, "pyproject.toml")))
    found = {}
    for name in dict.fromkeys(names):
        content = read(tree, (home / name).relative_to(tree)) if ".." not in Path(name).parts else None
        if content is not None:
            found[name] = content
    return found


def _locked_python(lock: bytes | None) -> str:
    found = re.search(rb'^requires-python = "([^"]*)"', lock or b"", re.MULTILINE)
    return found[1].decode() if found else ""


def _default_groups(pyproject: Mapping[str, Any]) -> tuple[str, ...]:
    """The groups that uv installs without being asked."""
    said = table(pyproject, "tool", "uv").get("default-groups")
    present = table(pyproject, "dependency-groups")
    if said == "all":
        return tuple(present)
    return texts(said) if isinstance(said, list) else tuple(name for name in ("dev",) if name in present)


def _packages(project: _Project) -> tuple[Path, ...]:
    """What the lock takes from the repository itself and installs: folders, and wheels."""
    if project.lock is None:
        return (project.folder,) if overlays.is_package(project.pyproject) else ()
    name = str(table(project.pyproject, "project").get("name", ""))
    return tuple(
        inside(project.tree, (project.root / place).resolve().relative_to(project.tree.resolve()))
        for place in _local_packages(project.lock, name)
    )


@lru_cache(maxsize=16)
def _local_packages(lock: bytes, name: str) -> tuple[str, ...]:
    """Places of the local packages that the project needs, itself included; nearest last."""
    local = _LOCAL.findall(lock)
    if len(local) <= 1:  # only the project itself: no need to parse what may be a long file
        return tuple(place.decode() for kind, place in local if kind in {b"editable", b"directory"})
    packages = {one["name"]: one for one in toml(lock, "uv.lock").get("package", [])}
    reached: list[str] = []
    waiting = [name if name in packages else ""]
    if not waiting[0]:
        waiting = list(packages)
    while waiting:
        current = waiting.pop()
        if current in reached or current not in packages:
            continue
        reached.append(current)
        one = packages[current]
        for wanted in (
            one.get("dependencies", []),
            *one.get("optional-dependencies", {}).values(),
            *one.get("dev-dependencies", {}).values(),
        ):
            waiting += [entry["name"] for entry in wanted]
    sources = [packages[one].get("source", {}) for one in reached]
    return tuple(
        place
        for source in sources
        for kind, place in source.items()
        if kind in {"editable", "directory", "path"}
    )
