"""`environment.yml`, by whichever of the conda tools the machine has: micromamba, mamba, conda or pixi.

Their activation scripts are not run: `CONDA_PREFIX` and `PATH` are all that a job gets.
"""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pushtrain.adapters.environments.site import Site, chosen, key_of, lines_tail, read
from pushtrain.adapters.environments.tool import INHERITED, without_credentials
from pushtrain.core.errors import BuildError, NeedsCode
from pushtrain.core.values.jobspec import EnvironmentKind, EnvironmentSpec
from pushtrain.ports import Activation, Builder, Recipe

TOOLS: Final = ("micromamba", "mamba", "conda", "pixi")
"""In the order in which they are looked for."""

SETTINGS: Final = ("CONDARC", "CONDA_OVERRIDE_CUDA", "MAMBARC", "PIXI_HOME")
"""Variables that the tools take over beside those that uv does."""

_DEFAULTS: Final = ("environment.yml", "environment.yaml")


class CondaFile:
    """`environment.yml`, or the file that the job names."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def plan(self, tree: Path, spec: EnvironmentSpec) -> Recipe | None:
        """The environment of the file.

        Raises:
            BuildError: The job names a file that is not there, or the machine has none of the tools.
        """
        found = self._file(tree, spec)
        if found is None:
            return None
        name, content = found
        tool = self._tool()
        settings = {one: self._site.environ[one] for one in SETTINGS if one in self._site.environ}
        key = key_of("conda", self._site, {"tool": tool.name, "settings": settings}, {name: content})
        return Recipe(key=key, title=f"{name}, {tool.name}", locked=False)

    def build(self, tree: Path, spec: EnvironmentSpec, into: Path, builder: Builder) -> None:
        """Create the environment in `into`.

        Raises:
            NeedsCode: The builder may not run the hooks that packages bring.
            BuildError: The tool failed.
        """
        if not builder.code:
            raise NeedsCode("Packages of conda run code of their own when they are installed.")
        found = self._file(tree, spec)
        if found is None:
            raise BuildError("There is no environment.yml to build from.")
        name, content = found
        tool = self._tool()
        self._site.caches.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=self._site.caches) as temporary:
            file = Path(temporary) / "environment.yml"
            file.write_bytes(content)
            for words in commands(tool, file, into):
                self._run(
                    words,
                    into if tool.name == "pixi" else Path(temporary),
                    name,
                    (file.parent, into),
                    builder,
                )

    def activate(
        self,
        tree: Path,
        spec: EnvironmentSpec,
        root: Path,
        overlay: Path,
        builder: Builder,
    ) -> Activation:
        """The environment's programs come first."""
        prefix = root / ".pixi" / "envs" / "default"
        prefix = prefix if prefix.is_dir() else root
        env = {"CONDA_PREFIX": str(prefix), "CONDA_DEFAULT_ENV": str(prefix)}
        return Activation(env=env, path=(prefix / "bin",))

    def environment(self, builder: Builder) -> Mapping[str, str]:
        """All variables that the tool's process has."""
        given, caches = self._site.environ, builder.cache / "conda"
        inherited = {name: given[name] for name in (*INHERITED, *SETTINGS, "PATH") if name in given}
        return {
            **without_credentials(inherited),
            "MAMBA_ROOT_PREFIX": str(caches),
            "CONDA_PKGS_DIRS": str(caches / "pkgs"),
            "PIXI_CACHE_DIR": str(caches / "pixi"),
            "CI": "true",
        }

    def _file(self, tree: Path, spec: EnvironmentSpec) -> tuple[str, bytes] | None:
        wanted = chosen(spec, EnvironmentKind.CONDA)
        if wanted is None:
            return None
        for name in (wanted,) if wanted else _DEFAULTS:
            content = read(tree, name)
            if content is not None:
                return name, content
        if spec.kind is EnvironmentKind.AUTO:
            return None
        raise BuildError(f"There is no {wanted or _DEFAULTS[0]} in the repository.", mend="Check `conda`.")

    def _tool(self) -> Path:
        path = self._site.environ.get("PATH", "")
        for name in TOOLS:
            found = shutil.which(name, path=path)
            if found is not None:
                return Path(found)
        raise BuildError(
            f"The repository has an environment.yml, and this machine has none of {', '.join(TOOLS)}.",
            mend="Ask its owner to install micromamba, or use `requirements` or `uv`.",
        )

    def _run(
        self,
        words: tuple[str | Path, ...],
        cwd: Path,
        name: str,
        writable: tuple[Path, ...],
        builder: Builder,
    ) -> None:
        given = self._site.environ
        files = [Path(given[one]) for one in ("CONDARC", "MAMBARC", "SSL_CERT_FILE") if given.get(one)]
        try:
            done = builder.run(
                words,
                cwd=cwd,
                env=self.environment(builder),
                writable=(cwd, *writable),
                readable=(*_installation(Path(words[0])), *files),
                timeout=self._site.timeout,
                line=lambda line: builder.report(line.strip()[:120], 0, 0),
            )
        except TimeoutError as error:
            raise BuildError(f"The environment of {name} was not built in time: {error}") from error
        except OSError as error:
            raise BuildError(f"{words[0]} could not be started: {error.strerror}.") from error
        if done.code:
            said = lines_tail(done.complaint or done.text)
            raise BuildError(
                f"The environment of {name} could not be built. {Path(words[0]).name} said:\n{said}"
            )


def commands(tool: Path, file: Path, into: Path) -> tuple[tuple[str | Path, ...], ...]:
    """What to run, one after the other."""
    if tool.name == "micromamba":
        return ((tool, "create", "--yes", "--prefix", into, "--file", file),)
    if tool.name == "pixi":
        return ((tool, "init", "--import", file, into), (tool, "install", "--manifest-path", into))
    return ((tool, "env", "create", "--yes", "--prefix", into, "--file", file),)


def _installation(tool: Path) -> tuple[Path, ...]:
    """What of the machine the tool itself needs: its prefix, where that is conda's, else its own file."""
    real = tool.resolve()
    prefix = real.parent.parent
    return (tool, real, *((prefix,) if (prefix / "conda-meta").is_dir() else ()))
