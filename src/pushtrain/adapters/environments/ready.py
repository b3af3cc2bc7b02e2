"""Environments that are there already: one that the owner offers by name, or the machine's own Python."""

import os
import shutil
import sys
from pathlib import Path

from pushtrain.adapters.environments.python import fits, own
from pushtrain.adapters.environments.site import Site
from pushtrain.core.errors import BuildError
from pushtrain.core.values.jobspec import EnvironmentKind, EnvironmentSpec
from pushtrain.ports import Activation, Builder, Recipe


class Named:
    """A folder with `bin/` that the executor's owner offers: a virtual or conda environment, or a prefix."""

    def __init__(self, site: Site) -> None:
        self._offered = site.offered

    def plan(self, tree: Path, spec: EnvironmentSpec) -> Recipe | None:
        """There is nothing to build.

        Raises:
            BuildError: The owner offers no such environment, or its folder is gone.
        """
        if spec.kind is not EnvironmentKind.NAMED:
            return None
        self._folder(spec)
        return Recipe(key="", title=f"the owner's {spec.name}", locked=False)

    def build(self, tree: Path, spec: EnvironmentSpec, into: Path, builder: Builder) -> None:
        """Never called: `plan` names no key."""

    def activate(
        self,
        tree: Path,
        spec: EnvironmentSpec,
        root: Path,
        overlay: Path,
        builder: Builder,
    ) -> Activation:
        """The folder's programs come first."""
        folder = self._folder(spec)
        if (folder / "conda-meta").is_dir():
            env = {"CONDA_PREFIX": str(folder), "CONDA_DEFAULT_ENV": spec.name}
        elif (folder / "pyvenv.cfg").is_file():
            env = {"VIRTUAL_ENV": str(folder)}
        else:
            env = {}
        return Activation(env=env, path=(folder / "bin",), readable=(folder,))

    def _folder(self, spec: EnvironmentSpec) -> Path:
        named = self._offered.get(spec.name)
        if named is None:
            offered = ", ".join(sorted(self._offered)) or "none"
            raise BuildError(
                f"This executor offers no environment named {spec.name!r}; it offers: {offered}.",
                mend="Ask its owner to add it to `environments`, or choose another kind.",
            )
        folder = Path(named).expanduser().absolute()
        if not (folder / "bin").is_dir():
            raise BuildError(
                f"The environment that this executor offers as {spec.name!r} is not there.",
                mend="Ask its owner to look at `environments` in settings.toml.",
            )
        return folder


class System:
    """The machine's own Python: nothing is built, nothing is isolated."""

    def __init__(self, site: Site) -> None:
        self._path = site.environ.get("PATH", os.defpath)

    def plan(self, tree: Path, spec: EnvironmentSpec) -> Recipe | None:
        """There is nothing to build.

        Raises:
            BuildError: The job asks for a Python that the machine does not have.
        """
        if spec.kind not in {EnvironmentKind.SYSTEM, EnvironmentKind.AUTO}:
            return None
        return Recipe(key="", title=f"the machine's {self._python(spec.python).name}", locked=False)

    def build(self, tree: Path, spec: EnvironmentSpec, into: Path, builder: Builder) -> None:
        """Never called: `plan` names no key."""

    def activate(
        self,
        tree: Path,
        spec: EnvironmentSpec,
        root: Path,
        overlay: Path,
        builder: Builder,
    ) -> Activation:
        """The interpreter's folder comes first; `python` works also where there is only `python3`."""
        python = self._python(spec.python)
        names, beside = ("python", "python3"), python.parent
        missing = [name for name in names if (beside / name).resolve() != python.resolve()]
        if not missing:
            return Activation(path=(beside,))  # an alias elsewhere would hide a virtual environment
        aliases = overlay / "bin"
        aliases.mkdir(parents=True, exist_ok=True)
        for name in missing:
            (aliases / name).unlink(missing_ok=True)
            (aliases / name).symlink_to(python)
        return Activation(path=(aliases, beside))

    def _python(self, wanted: str) -> Path:
        if wanted and not (fits(f"=={wanted}.*") or fits(f"=={wanted}")):
            found = shutil.which(f"python{wanted}", path=self._search())
            if found is None:
                raise BuildError(
                    f"This machine has no python{wanted}.",
                    mend="Use `requirements` or `uv`, which can get one, or another executor.",
                )
            return Path(found)
        found = None if wanted else shutil.which("python3", path=self._search())
        return Path(found or own().request)

    def _search(self) -> str:
        """PATH without our own virtual environment, and without pyenv's shims, which cost 100 ms a call.

        Behind a shim stands the Python that the executor itself was started with.
        """
        folders = []
        for folder in self._path.split(os.pathsep):
            if Path(folder).name == "shims":
                folders.append(str(Path(own().request).parent))
            elif Path(folder) != Path(sys.prefix, "bin") or sys.prefix == sys.base_prefix:
                folders.append(folder)
        return os.pathsep.join(folders)
