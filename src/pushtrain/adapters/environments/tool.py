"""The `uv` program: how it is called, what it inherits, what it says while it works.

Every call goes through `Uv.run`, and by a builder into a cage. A builder that may not run others' code has uv
install wheels alone; what has none is told as `NeedsCode`, and built by another builder.

`--no-build` does not do that by itself: a repository overrules it, by `--no-binary NAME` in a requirements
file or by settings in its pyproject.toml; other settings have uv run what it has installed. So files that
make any but harmless settings are for the other builder (`demands_code`), and where uv would make the
environment that a build runs in there is a file, which it cannot replace.
"""

import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final

from uv import find_uv_bin

from pushtrain.adapters.environments.python import own
from pushtrain.adapters.environments.site import Site, driver, lines_tail, table, toml
from pushtrain.core.errors import BuildError, BuildKilled, IndexAway, NeedsCode
from pushtrain.plumbing.disk.trees import remove_tree
from pushtrain.plumbing.isolation.interpreters import needed
from pushtrain.plumbing.programs import process
from pushtrain.ports import Builder, Ended

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
_PRIVATE: Final = ("NETRC", "UV_KEYRING_PROVIDER")
_USER: Final = re.compile(r"(://)[^/@\s]+@")
_NEEDS_CODE: Final = re.compile(
    r"--no-build|[Bb]uilding (source distributions .*|from source )is disabled|/builds-v\d+`"
)
_OVERRULING: Final = re.compile(r"no[-_](binary|build[-_]isolation)")
_HARMLESS: Final = frozenset(
    {
        "build-backend",
        "build-constraint-dependencies",
        "cache-keys",
        "concurrent-builds",
        "concurrent-downloads",
        "concurrent-installs",
        "conflicts",
        "constraint-dependencies",
        "default-groups",
        "dependency-groups",
        "dependency-metadata",
        "dev-dependencies",
        "environments",
        "exclude-dependencies",
        "exclude-newer",
        "exclude-newer-package",
        "extra-index-url",
        "find-links",
        "fork-strategy",
        "index",
        "index-strategy",
        "index-url",
        "managed",
        "no-build",
        "no-build-package",
        "no-index",
        "no-sources",
        "override-dependencies",
        "package",
        "pip",
        "prerelease",
        "required-environments",
        "required-version",
        "resolution",
        "sources",
        "torch-backend",
        "upgrade",
        "workspace",
    }
)
"""uv's settings that a repository may make where nobody's code may run. Others can lead to code
(`compile-bytecode` starts the environment's Python, `python-downloads-json-url` brings one along) or to
folders of others (`pip.prefix`)."""
_BUILD_FOLDERS: Final = tuple(f"builds-v{number}" for number in range(10))
"""Where uv, in its cache, makes the environments that builds run in; it is `builds-v0` today."""
_TOLD: Final = re.compile(
    r"(Resolved|Prepared|Installed|Downloading|Downloaded|Building|Built|Creating|Using|Updating)\b"
)
_STRANGER: Final = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_ALLOW_PROTOCOL": "https",
    "GIT_SSH_COMMAND": "false",
}
_AWAY: Final = "A server there lies in a network that jobs do not reach (docs/network.md)."
_SILENT: Final = re.compile(
    r"^\W*(cause|Caused by): .*(Connection (refused|reset)|timed out|tunnel error|connection closed"
    r"|Temporary failure in name|HTTP status (server error \(5|client error \((408|425|429)))",
    re.MULTILINE,
)
"""What uv says where an index does not answer now."""
_NEVER: Final = re.compile(r"^(The executor does not fetch from|There is no server) ", re.MULTILINE)
"""What the proxy that builds go by says of a host that will not answer later either."""
_KILLED: Final = re.compile(r"signal: (9|15) \(SIG|died with <Signals\.SIG(KILL|TERM)")
"""What uv says where a build that it has started was killed."""
_INSTALLING: Final = ("pip", "sync")
_ENDED: Final = frozenset(code for one in (signal.SIGKILL, signal.SIGTERM) for code in (-one, 128 + one))
"""Exit codes of what was ended by a signal, and of a sandbox or shell around it."""
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


def without_credentials(given: Mapping[str, str]) -> dict[str, str]:
    """Variables as code may see them that is not the owner's: no passwords, not in addresses either."""
    return {
        name: _USER.sub(r"\1", value)
        for name, value in given.items()
        if name not in _PRIVATE and not _CREDENTIAL.fullmatch(name)
    }


def demands_code(files: Mapping[str, bytes]) -> bool:
    """Whether what decides about an environment would overrule that nothing is built.

    Args:
        files: By name; inline metadata of a script counts as its text.
    """
    for name, content in files.items():
        text = content.decode("utf-8", "replace")
        if not all(made.keys() <= _HARMLESS for made in _made(name, content)):
            return True
        if name.endswith(".toml"):
            if any(_OVERRULING.search(key) for key in _keys(toml(content, name))):
                return True
        elif _OVERRULING.search(text) or re.search(
            r"(?m)^\s*(-r|-c|--requirement|--constraint)\b.*://", text
        ):
            return True
    return False


def borrows(files: Mapping[str, bytes], environ: Mapping[str, str]) -> bool:
    """Whether the repository gives a server of its own choice the name of one that its owner has keys for.

    uv finds `UV_INDEX_…_PASSWORD` by an index's name alone: name and address must be as the owner has them.
    """
    owners = {word for name in _INDEXES for word in environ.get(name, "").split()}
    for index in (
        one for name, content in files.items() for made in _made(name, content) for one in _named(made)
    ):
        name, url = str(index.get("name", "")), str(index.get("url", ""))
        prefix = f"UV_INDEX_{re.sub(r'[^A-Z0-9]', '_', name.upper())}_"
        lent = environ.keys() & {f"{prefix}USERNAME", f"{prefix}PASSWORD"}
        if name and lent and f"{name}={url}" not in owners:
            return True
    return False


def _named(made: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    found = made.get("index")
    yield from (one for one in (found if isinstance(found, list) else ()) if isinstance(one, Mapping))


def _made(name: str, content: bytes) -> Iterator[Mapping[str, object]]:
    """The settings that a file makes for uv: all of them, and those for `uv pip`."""
    if name.endswith(".py"):  # a script's metadata, in comments
        lines = content.decode("utf-8", "replace").splitlines()[1:-1]
        found = toml("\n".join(re.sub(r"^# ?", "", line) for line in lines).encode(), name)
    elif name.endswith(".toml"):
        found = toml(content, name)
    else:
        return
    if Path(name).name == "uv.toml":
        yield from (found, table(found, "pip"))
    yield from (table(found, "tool", "uv"), table(found, "tool", "uv", "pip"))


def _keys(value: object) -> Iterator[str]:
    """All keys of a document, however they are written in it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)


def _keep_from_building(cache: Path) -> None:
    """Put files where uv would make folders to build in."""
    cache.mkdir(parents=True, exist_ok=True)
    for name in _BUILD_FOLDERS:
        if not (cache / name).is_file():
            remove_tree(cache / name)
            (cache / name).touch()


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
    builder: Builder
    writable: tuple[Path, ...] = ()
    """What it writes beside the tools' cache."""
    readable: tuple[Path, ...] = ()


class Uv:
    """uv on this machine."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def environment(self, builder: Builder) -> dict[str, str]:
        """All variables that uv's process has."""
        given = self._site.environ
        inherited = {name: given[name] for name in INHERITED if name in given} | settings(given)
        if builder.code:
            inherited = without_credentials(inherited)
        # A pyenv shim in front of the real interpreters only answers that it has none.
        path = [one for one in given.get("PATH", _DEFAULT_PATH).split(":") if Path(one).name != "shims"]
        return {
            **inherited,
            "PATH": ":".join(path),
            "UV_CACHE_DIR": str(builder.cache / "uv"),
            "UV_PYTHON_INSTALL_DIR": str(self._site.caches / "python"),
            "UV_LINK_MODE": "hardlink",
            "UV_NO_PROGRESS": "1",
            **({"UV_OFFLINE": "1"} if builder.offline else {}),
            # A repository must not have the owner's Git and SSH credentials used for what it names.
            **(_STRANGER if builder.caged else {}),
            # A tree has no .git: build backends that ask it for a version get one.
            "SETUPTOOLS_SCM_PRETEND_VERSION": "0",
            "PDM_BUILD_SCM_VERSION": "0",
            "UV_DYNAMIC_VERSIONING_BYPASS": "0",
        }

    def run(self, words: Sequence[str | Path], task: Task, *, env: Mapping[str, str] | None = None) -> None:
        """Run uv to its end.

        Args:
            words: Its arguments.
            task: Where, for what, and by which builder.
            env: Variables beside `environment()`.

        Raises:
            NeedsCode: Something has no wheel, and the builder may not run others' code.
            BuildError: It failed; the message holds its last words.
        """
        builder = task.builder
        wheels_alone: tuple[str, ...] = ()
        if not builder.code:
            _keep_from_building(builder.cache / "uv")
            # The flag, not UV_NO_BUILD, which `uv pip` does not know.
            wheels_alone = ("--no-build",) if words[0] in _INSTALLING else ()

        def tell(line: str) -> None:
            if _TOLD.match(line):
                builder.report(line.strip(), 0, 0)

        try:
            done = builder.run(
                (uv_binary(), *words, *wheels_alone),
                cwd=task.cwd,
                env={**self.environment(builder), **(env or {})},
                writable=(task.cwd, *task.writable),
                readable=(uv_binary(), *self._readable(builder), *task.readable),
                line=tell,
                timeout=self._site.timeout,
            )
        except TimeoutError as error:
            raise BuildError(
                f"{task.title} was not built within {self._site.timeout:g} s.",
                mend="Try again: what came is cached.",
            ) from error
        except OSError as error:
            said = f"uv could not be started: {error.strerror}."
            if error.errno in process.NO_MEANS:
                raise BuildKilled(said, mend="Look at what else this machine runs.") from error
            raise BuildError(said, mend="Reinstall pushtrain.") from error
        if done.code:
            said = f"{task.title} could not be built. uv said:\n{lines_tail(done.complaint)}"
            if not builder.code and _NEEDS_CODE.search(done.complaint):
                raise NeedsCode(said)
            _blame_others(done, said)
            raise BuildError(said, mend=_AWAY if "No route to host" in done.complaint else "")

    def _readable(self, builder: Builder) -> Iterator[Path]:
        """Our own Python, and files that the owner's settings name."""
        yield from needed((Path(own().request).parent,), never=(Path.home(),))
        given = self._site.environ
        names = ("SSL_CERT_FILE", "SSL_CERT_DIR", *(() if builder.code else ("NETRC",)))
        yield from (Path(given[name]) for name in names if given.get(name))
        for name in _INDEXES:
            for word in re.split(r"[\s,]+", given.get(name, "")):
                place = word.rpartition("=")[2].removeprefix("file://")
                if place.startswith("/"):
                    yield Path(place)

    def check(self, files: Mapping[str, bytes], builder: Builder) -> None:
        """Leave to a builder that runs others' code what asks for it.

        Raises:
            NeedsCode: These files do, and this builder may not.
        """
        if not builder.code and demands_code(files):
            raise NeedsCode("The repository makes settings that may lead to code.")
        if not builder.code and borrows(files, self._site.environ):
            raise NeedsCode("The repository names an index as its owner's, whose keys are not for it.")

    def pip_install(self, words: Sequence[str | Path], task: Task, *, root: Path, python: str) -> None:
        """Make an environment at `root` and install requirements into it.

        Raises:
            BuildError: That failed.
        """
        self.run(("venv", "--no-project", "--python", python, root), task)
        backend = torch_backend(self._site.environ)
        chosen = ("--torch-backend", backend) if backend else ()
        self.run(("pip", "install", "--python", root, *chosen, *words), task)


def _blame_others(done: Ended, said: str) -> None:
    """Say so where uv has failed for a reason that may be over at any moment.

    Raises:
        BuildKilled: The kernel has ended it, for want of memory perhaps.
        IndexAway: An index does not answer.
    """
    if done.code in _ENDED or _KILLED.search(done.complaint):
        raise BuildKilled(said, mend="Look whether the machine runs out of memory; it is tried again.")
    if _SILENT.search(done.complaint) and not _NEVER.search(done.complaint):
        raise IndexAway(said, mend="It is tried again.")


def clean(site: Site) -> None:
    """Give back the space of uv's own cache; environments keep their files.

    Raises:
        BuildError: uv could not do it.
    """
    cache = site.caches / "uv"
    if cache.is_dir():
        env = {"PATH": _DEFAULT_PATH, "UV_CACHE_DIR": str(cache)}
        done = process.run((uv_binary(), "cache", "clean"), cwd=site.caches, env=env, timeout=site.timeout)
        if done.code:
            raise BuildError(f"uv's cache could not be emptied. uv said:\n{lines_tail(done.complaint)}")
