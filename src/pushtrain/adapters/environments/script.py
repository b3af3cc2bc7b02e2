"""A script that says what it needs: inline metadata as in PEP 723.

Only the metadata decides, so a change of the script's code builds nothing anew. With `SCRIPT.py.lock` beside
it (`uv lock --script`) exactly what is locked there is installed.
"""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pushtrain.adapters.environments import overlay as overlays
from pushtrain.adapters.environments.python import Interpreter, choose
from pushtrain.adapters.environments.site import Site, chosen, key_of, read, toml
from pushtrain.adapters.environments.tool import Task, Uv, settings, torch_part, uv_version
from pushtrain.core.errors import BuildError
from pushtrain.core.values.jobspec import EnvironmentKind, EnvironmentSpec
from pushtrain.ports import Activation, Builder, Recipe

_BLOCK: Final = re.compile(r"(?m)^# /// script$\n(?P<content>(?:^#(?:| .*)$\n)+?)^# ///$")
_SCRIPTS: Final = 50


@dataclass(frozen=True, slots=True)
class _Script:
    name: str
    block: str
    """The metadata, as it stands in the file."""
    lock: bytes | None
    interpreter: Interpreter

    def files(self) -> dict[str, bytes]:
        """Everything that a build sees."""
        files = {"script.py": self.block.encode()}
        return files if self.lock is None else files | {"script.py.lock": self.lock}


class InlineScript:
    """The script that the job names, or that its command runs, or the only one with inline metadata."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._uv = Uv(site)

    def plan(self, tree: Path, spec: EnvironmentSpec) -> Recipe | None:
        """The environment that the script asks for.

        Raises:
            BuildError: The job names a script that is not there or has no metadata.
        """
        script = self._script(tree, spec)
        if script is None:
            return None
        files = script.files()
        parts = {
            "uv": uv_version(),
            "python": script.interpreter.identity,
            "settings": settings(self._site.environ),
            "torch": torch_part(self._site.environ, files),
        }
        key = key_of("script", self._site, parts, files)
        title = f"{script.name}, {script.interpreter.title}"
        return Recipe(key=key, title=title, locked=script.lock is not None)

    def build(self, tree: Path, spec: EnvironmentSpec, into: Path, builder: Builder) -> None:
        """Install what the script asks for into `into`.

        Raises:
            BuildError: It could not be installed.
        """
        script = self._script(tree, spec)
        if script is None:
            raise BuildError("There is no script with inline metadata to build from.")
        self._uv.check(script.files(), builder)
        self._site.caches.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=self._site.caches) as temporary:
            private = Path(temporary)
            for name, content in script.files().items():
                (private / name).write_bytes(content)
            task = Task(private, f"The environment of {script.name}", builder, (private, into))
            listed = "script.py"
            if script.lock is not None:
                listed = "requirements.txt"
                export = ("export", "--script", "script.py", "--frozen", "--quiet", "--output-file", listed)
                self._uv.run(export, task)
            self._uv.pip_install(("-r", listed), task, root=into, python=script.interpreter.request)

    def activate(
        self, tree: Path, spec: EnvironmentSpec, root: Path, overlay: Path, builder: Builder
    ) -> Activation:
        """The environment's programs come first."""
        return overlays.activate(self._uv, tree, (), root, overlay, builder=builder)

    def _script(self, tree: Path, spec: EnvironmentSpec) -> _Script | None:
        wanted = chosen(spec, EnvironmentKind.SCRIPT)
        if wanted is None:
            return None
        name = wanted or self._hinted(tree, spec) or self._only_one(tree)
        if not name:
            return None
        content = read(tree, name)
        if content is None:
            raise BuildError(f"There is no {name} in the repository.", mend="Check `script`.")
        block = metadata(content)
        if block is None:
            raise BuildError(
                f"{name} has no inline metadata.",
                mend="Add a `# /// script` block (PEP 723): `uv add --script`.",
            )
        text = re.sub(r"(?m)^# ?", "", block)
        about = toml("\n".join(text.splitlines()[1:-1]).encode(), f"The metadata of {name}")
        requires = str(about.get("requires-python", ""))
        interpreter = choose(tree, (tree / name).parent, asked=spec.python, requires=requires)
        return _Script(name, block, read(tree, f"{name}.lock"), interpreter)

    @staticmethod
    def _hinted(tree: Path, spec: EnvironmentSpec) -> str:
        """The script that the job's command runs, if it has inline metadata."""
        return spec.file if spec.file and metadata(read(tree, spec.file) or b"") is not None else ""

    @staticmethod
    def _only_one(tree: Path) -> str:
        scripts = sorted(tree.glob("*.py"))[:_SCRIPTS]
        found = [path.name for path in scripts if metadata(read(tree, path.name) or b"") is not None]
        return found[0] if len(found) == 1 else ""


def metadata(content: bytes) -> str | None:
    """A script's metadata block with its comment signs; None when it has none (PEP 723)."""
    found = _BLOCK.search(content.decode("utf-8", "replace").replace("\r\n", "\n"))
    return found[0] + "\n" if found else None
