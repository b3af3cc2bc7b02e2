"""What an environment adapter may know of the machine, and the small things that all of them need.

Nothing here runs a program. The files of a repository are read through `inside()`, which refuses a path that
leads out of the tree, by a link too: what is read decides a cache key and is copied for a build.
"""

import hashlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import rfc8785

from pushtrain.core.errors import BuildError
from pushtrain.core.text.toml import loads
from pushtrain.core.values.jobspec import EnvironmentKind, EnvironmentSpec

_LARGEST: Final = 64 * 1024 * 1024
"""Bytes of one file that an environment is described in."""
_DRIVER: Final = Path("/sys/module/nvidia/version")


@dataclass(frozen=True, slots=True)
class Site:
    """The machine, as far as building goes."""

    caches: Path
    """Folder for the tools' own caches: uv's wheels and Pythons, conda's packages."""
    built: Path
    """Where environments are kept, each in a folder `KIND-KEY`; only looked at."""
    offered: Mapping[str, str] = field(default_factory=dict)
    """Ready-made environments that the owner offers: folder by name."""
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    """The executor's own environment."""
    timeout: float = 3600
    """Seconds that one tool may run."""


def driver(path: Path = _DRIVER) -> str:
    """The NVIDIA driver's version, or nothing."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def chosen(spec: EnvironmentSpec, kind: EnvironmentKind, default: str = "") -> str | None:
    """The file that this kind is to look at; None: another kind was asked for."""
    if spec.kind is EnvironmentKind.AUTO:
        return default
    return (spec.file or default) if spec.kind is kind else None


def inside(tree: Path, relative: str | Path, *, what: str = "file") -> Path:
    """The path below the tree.

    Raises:
        BuildError: It leads out of the tree.
    """
    path = tree / relative
    if not path.resolve().is_relative_to(tree.resolve()):
        raise BuildError(
            f"The environment's {what} {str(relative)!r} leads out of the repository.",
            mend="Keep it inside, and not behind a link.",
        )
    return path


def read(tree: Path, relative: str | Path) -> bytes | None:
    """A file of the tree; None when there is no such file.

    Raises:
        BuildError: It leads out of the tree or cannot be read.
    """
    path = inside(tree, relative)
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise BuildError(f"{relative} cannot be read: {error.strerror}.") from error
    if len(content) > _LARGEST:
        raise BuildError(f"{relative} is larger than {_LARGEST} bytes.", mend="No environment needs that.")
    return content


def toml(content: bytes, name: str) -> dict[str, Any]:
    """A TOML file's content.

    Raises:
        BuildError: It is not TOML.
    """
    try:
        return loads(content.decode())
    except RecursionError as error:
        raise BuildError(f"{name} is nested too deeply.", mend="Correct it, and push again.") from error
    except ValueError as error:
        raise BuildError(f"{name} is not valid TOML: {error}.", mend="Correct it, and push again.") from error


def table(content: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """A table inside a table, empty where there is none."""
    found: Any = content
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}


def texts(value: Any) -> tuple[str, ...]:
    """The strings of a list; empty for anything else."""
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def key_of(kind: str, site: Site, parts: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """The key of an environment: everything that decides what is built, and where.

    An environment whose interpreter has gone (an upgraded system, a removed Python) can never be used again:
    its key is passed over, and the next one built.
    """
    identity: dict[str, Any] = {
        "format": 1,
        "kind": kind,
        "platform": [sys.platform, os.uname().machine, *_libc()],
        "parts": parts,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    for generation in range(100):
        digest = hashlib.sha256(rfc8785.dumps({**identity, "generation": generation})).hexdigest()
        python = site.built / f"{kind}-{digest[:40]}" / "bin" / "python"
        if python.exists() or not python.is_symlink():
            break
    return digest[:40]


def _libc() -> Sequence[str]:
    name = "CS_GNU_LIBC_VERSION"
    return [os.confstr(name) or ""] if name in os.confstr_names else []


def lines_tail(text: str, *, count: int = 15, size: int = 2000) -> str:
    """A tool's last words, without colours and without credentials in URLs."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    kept = [line.rstrip() for line in plain.splitlines() if line.strip()][-count:]
    return re.sub(r"(://)[^/@\s]+@", r"\1", "\n".join(kept))[-size:]
