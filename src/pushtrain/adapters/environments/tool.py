"""The `uv` program: how it is called, what it inherits, what it says while it works.

Every call goes through `Uv.run`: the one place where a sandbox for builds will be put around it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final

from uv import find_uv_bin

from pushtrain.adapters.environments.site import Site, driver, lines_tail
from pushtrain.core.errors import BuildError
from pushtrain.plumbing import process
from pushtrain.ports import Report, Stop

INHERITED: Final = (
    "ALL_PROXY",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "NETRC",
    "NO_PROXY",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
"""What uv takes over from the executor's environment, beside `PATH` and its own settings."""

SETTINGS: Final = (
    "UV_CUDA_DRIVER_VERSION",
    "UV_DEFAULT_INDEX",
    "UV_EXCLUDE_NEWER",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_HTTP_TIMEOUT",
    "UV_INDEX",
    "UV_INDEX_STRATEGY",
    "UV_INDEX_URL",
    "UV_INSECURE_HOST",
    "UV_KEYRING_PROVIDER",
    "UV_NATIVE_TLS",
    "UV_NO_INDEX",
    "UV_OFFLINE",
    "UV_PYTHON_DOWNLOADS",
    "UV_PYTHON_INSTALL_MIRROR",
    "UV_PYTHON_PREFERENCE",
    "UV_SYSTEM_CERTS",
    "UV_TORCH_BACKEND",
)
"""uv's own settings that its owner may make in the executor's environment; `UV_INDEX_…_USERNAME` and
`UV_INDEX_…_PASSWORD` too. They are part of an environment's key."""

_INDEXES: Final = (
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_NO_INDEX",
)
_CREDENTIAL: Final = re.compile(r"UV_INDEX_\w+_(USERNAME|PASSWORD)")
_TOLD: Final = re.compile(
    r"(Resolved|Prepared|Installed|Downloading|Downloaded|Building|Built|Creating|Using|Updating)\b"
)
_DEFAULT_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


def uv_binary() -> Path:
    """Where uv is."""
    return Path(find_uv_bin())


@cache
def uv_version() -> str:
    """Which uv that is."""
    return version("uv")


def settings(environ: Mapping[str, str]) -> dict[str, str]:
    """What its owner set for uv."""
    return {name: value for name, value in environ.items() if name in SETTINGS or _CREDENTIAL.fullmatch(name)}


def torch_backend(environ: Mapping[str, str]) -> str:
    """Which builds of PyTorch `uv pip` takes: what the owner says, else those that fit the driver.

    An owner who names an index of their own decides what is in it; then nothing is chosen for them.
    """
    if "UV_TORCH_BACKEND" in environ:
        return environ["UV_TORCH_BACKEND"]
    return "" if any(environ.get(name) for name in _INDEXES) else "auto"


def torch_part(environ: Mapping[str, str], files: Mapping[str, bytes]) -> str:
    """What the choice of PyTorch's build adds to a key: nothing where no file speaks of torch."""
    if not any(b"torch" in content for content in files.values()):
        return ""
    return f"{torch_backend(environ)} {driver()}"


@dataclass(frozen=True, slots=True)
class Task:
    """What one call of a tool is for."""

    cwd: Path
    title: str
    """What is built, for an error."""
    report: Report
    stop: Stop


class Uv:
    """uv on this machine."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def environment(self) -> dict[str, str]:
        """All variables that uv's process has."""
        given = self._site.environ
        # A pyenv shim in front of the real interpreters only answers that it has none.
        path = [one for one in given.get("PATH", _DEFAULT_PATH).split(":") if Path(one).name != "shims"]
        return {
            **{name: given[name] for name in INHERITED if name in given},
            **settings(given),
            "PATH": ":".join(path),
            "UV_CACHE_DIR": str(self._site.caches / "uv"),
            "UV_PYTHON_INSTALL_DIR": str(self._site.caches / "python"),
            "UV_LINK_MODE": "hardlink",
            "UV_NO_PROGRESS": "1",
            # A tree has no .git: build backends that ask it for a version get one.
            "SETUPTOOLS_SCM_PRETEND_VERSION": "0",
            "PDM_BUILD_SCM_VERSION": "0",
            "UV_DYNAMIC_VERSIONING_BYPASS": "0",
        }

    def run(self, words: Sequence[str | Path], task: Task, *, env: Mapping[str, str] | None = None) -> None:
        """Run uv to its end.

        Args:
            words: Its arguments.
            task: Where, for what, and who is told.
            env: Variables beside `environment()`.

        Raises:
            BuildError: It failed; the message holds its last words.
        """

        def tell(line: str) -> None:
            if _TOLD.match(line):
                task.report(line.strip(), 0, 0)

        try:
            done = process.run(
                (uv_binary(), *words),
                cwd=task.cwd,
                env={**self.environment(), **(env or {})},
                stop=task.stop,
                timeout=self._site.timeout,
                line=tell,
            )
        except TimeoutError as error:
            raise BuildError(
                f"{task.title} was not built within {self._site.timeout:g} s.",
                mend="Try again: what came is cached.",
            ) from error
        except OSError as error:
            raise BuildError(
                f"uv could not be started: {error.strerror}.", mend="Reinstall pushtrain."
            ) from error
        if done.code:
            raise BuildError(f"{task.title} could not be built. uv said:\n{lines_tail(done.complaint)}")

    def pip_install(self, words: Sequence[str | Path], task: Task, *, root: Path, python: str) -> None:
        """Make an environment at `root` and install requirements into it.

        Raises:
            BuildError: That failed.
        """
        self.run(("venv", "--no-project", "--python", python, root), task)
        backend = torch_backend(self._site.environ)
        chosen = ("--torch-backend", backend) if backend else ()
        self.run(("pip", "install", "--python", root, *chosen, *words), task)


def clean(site: Site) -> None:
    """Give back the space of uv's own cache; environments that stand keep their files.

    Raises:
        BuildError: uv could not do it.
    """
    if (site.caches / "uv").is_dir():
        Uv(site).run(("cache", "clean"), Task(site.caches, "uv's cache", lambda *_: None, lambda: None))
