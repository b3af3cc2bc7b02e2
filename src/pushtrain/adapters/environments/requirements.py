"""A requirements file: `-r` and `-c` includes within the repository, local packages into the overlay.

`-e .`, `./package` and the like name the repository's own code. Their dependencies (from their
pyproject.toml) are cached with the others; the packages themselves go into the attempt's overlay. Wheels and
archives that the repository carries are copied to the build.
"""

import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from pushtrain.adapters.environments import overlay as overlays
from pushtrain.adapters.environments.python import Interpreter, choose
from pushtrain.adapters.environments.site import Site, chosen, inside, key_of, read, table, toml
from pushtrain.adapters.environments.tool import Task, Uv, settings, torch_part, uv_version
from pushtrain.core.errors import BuildError
from pushtrain.core.values.jobspec import EnvironmentKind, EnvironmentSpec
from pushtrain.ports import Activation, Builder, Recipe

_INCLUDE: Final = re.compile(r"(?:-r|-c|--requirement|--constraint)[ =]*(\S+)")
_LOCAL: Final = re.compile(
    r"(?:(?:-e|--editable)[ =]+)?(?:file:)?"
    r"(?P<place>\.{1,2}(?:/[^\[\s;#]*)?|[^\[\s;#:]+/[^\[\s;#:]*)"
    r"(?:\[(?P<extras>[^\]]*)\])?\s*(?:[;#].*)?"
)
_ARCHIVES: Final = (".whl", ".tar.gz", ".zip", ".tar.bz2")
_FILES: Final = 100


@dataclass(slots=True)
class _Found:
    """What a requirements file comes to."""

    texts: dict[str, str] = field(default_factory=dict)
    """Requirements files by path in the tree, with local packages taken out."""
    archives: dict[str, bytes] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    """Extras by folder of the repository's own packages."""
    pyprojects: dict[str, bytes] = field(default_factory=dict)
    locked: bool = True

    def files(self) -> dict[str, bytes]:
        """Everything that a build sees."""
        return {name: text.encode() for name, text in self.texts.items()} | self.archives | self.pyprojects


class RequirementsFile:
    """`requirements.txt`, or the file that the job names."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._uv = Uv(site)

    def plan(self, tree: Path, spec: EnvironmentSpec) -> Recipe | None:
        """The environment of the requirements file.

        Raises:
            BuildError: The job names a file that is not there, or it includes one that is not.
        """
        name = self._name(tree, spec)
        if name is None:
            return None
        found = collect(tree, name)
        interpreter = self._python(tree, spec, name)
        environ, files = self._site.environ, found.files()
        parts = {
            "uv": uv_version(),
            "python": interpreter.identity,
            "file": name,
            "packages": found.packages,
            "settings": settings(environ),
            "torch": torch_part(environ, files),
        }
        key = key_of("requirements", self._site, parts, files)
        return Recipe(key=key, title=f"{name}, {interpreter.title}", locked=found.locked)

    def build(self, tree: Path, spec: EnvironmentSpec, into: Path, builder: Builder) -> None:
        """Install what the file lists into `into`.

        Raises:
            BuildError: It could not be installed.
        """
        name = self._name(tree, spec)
        if name is None:
            raise BuildError("There is no requirements file to build from.")
        found = collect(tree, name)
        self._uv.check(found.files(), builder)
        self._site.caches.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=self._site.caches) as temporary:
            private = Path(temporary)
            for file, content in found.files().items():
                (private / file).parent.mkdir(parents=True, exist_ok=True)
                (private / file).write_bytes(content)
            local = [word for file in found.pyprojects for word in ("-r", file)]
            extras = dict.fromkeys(
                one.strip() for text in found.packages.values() for one in text.split(",") if one
            )
            self._uv.pip_install(
                ("-r", name, *local, *(word for extra in extras for word in ("--extra", extra))),
                Task(private, f"The environment of {name}", builder, (private, into)),
                root=into,
                python=self._python(tree, spec, name).request,
            )

    def activate(
        self, tree: Path, spec: EnvironmentSpec, root: Path, overlay: Path, builder: Builder
    ) -> Activation:
        """The environment's programs come first, and before them the repository's own packages."""
        name = self._name(tree, spec)
        places = collect(tree, name).packages if name is not None else {}
        packages = [tree / place for place in places]
        return overlays.activate(self._uv, tree, packages, root, overlay, builder=builder)

    def _name(self, tree: Path, spec: EnvironmentSpec) -> str | None:
        name = chosen(spec, EnvironmentKind.REQUIREMENTS, "requirements.txt")
        if name is None or read(tree, name) is not None:
            return name
        if spec.kind is EnvironmentKind.AUTO:
            return None
        raise BuildError(f"There is no {name} in the repository.", mend="Check `requirements`.")

    @staticmethod
    def _python(tree: Path, spec: EnvironmentSpec, name: str) -> Interpreter:
        return choose(tree, (tree / name).parent, asked=spec.python, requires="")


def collect(tree: Path, name: str) -> _Found:
    """Everything that a requirements file refers to within the repository.

    Raises:
        BuildError: It refers to what is not there or is outside.
    """
    found = _Found()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in found.texts:
            continue
        content = read(tree, current)
        if content is None:
            raise BuildError(f"{name} includes {current}, which is not in the repository.", mend="Add it.")
        if len(found.texts) >= _FILES:
            raise BuildError(f"{name} includes more than {_FILES} files.")
        folder = PurePosixPath(current).parent
        lines = []
        for line in content.decode("utf-8", "replace").replace("\\\n", " ").splitlines():
            kept, included = _line(tree, folder, line, found)
            lines.append(kept)
            waiting += included
        found.texts[current] = "\n".join(lines) + "\n"
    return found


def _line(tree: Path, folder: PurePosixPath, line: str, found: _Found) -> tuple[str, list[str]]:
    """The line as uv is to see it, and the files that it includes."""
    text = line.strip()
    if not text or text.startswith("#"):
        return line, []
    include = _INCLUDE.match(text)
    if include is not None:
        if "://" in include[1]:
            found.locked = False
            return line, []
        return line, [_normal(tree, folder / include[1])]
    local = _LOCAL.fullmatch(text)
    if local is not None and "://" not in text and "+" not in text.partition("/")[0]:
        place = _normal(tree, folder / local["place"])
        if place.endswith(_ARCHIVES):
            content = read(tree, place)
            if content is None:
                raise BuildError(f"{place} is required, but is not in the repository.", mend="Add it.")
            found.archives[place] = content
            return line, []
        _own_package(tree, place, local["extras"] or "", found)
        return f"# the repository's own package: {place}", []
    if not text.startswith("-"):
        requirement = text.partition("#")[0].partition(";")[0]
        found.locked = found.locked and ("==" in requirement or " @ " in requirement)
    return line, []


def _own_package(tree: Path, place: str, extras: str, found: _Found) -> None:
    found.packages[place] = extras
    content = read(tree, f"{place}/pyproject.toml")
    if content is not None and "project" in toml(content, f"{place}/pyproject.toml"):
        found.pyprojects[str(PurePosixPath(place, "pyproject.toml"))] = content
        if table(toml(content, place), "project").get("dependencies"):
            found.locked = False
    elif not inside(tree, place).is_dir():
        raise BuildError(f"{place} is required, but is not in the repository.", mend="Add it.")


def _normal(tree: Path, path: PurePosixPath) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    place = "/".join(parts) or "."
    inside(tree, place)
    return place
