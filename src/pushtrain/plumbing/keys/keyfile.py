"""Text files of public keys, as people know them from ssh: a key a line, options behind it, comments kept.

    # the group's workstation
    ed25519:c2l4dHktZm91ciBieXRlcyBvZiBrZXkgaGVyZSE= scopes=send,read repo=github.com/octo/* name=ada

A file is read again when it changed, so that a server need not be restarted. A line that is not understood
in full grants nothing: an owner who mistypes `scopes` must not lend more than he meant to.
"""

import contextlib
import fcntl
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pushtrain.core.errors import PushtrainError, StorageError, UsageError
from pushtrain.core.wire.signing import fingerprint, parse_public
from pushtrain.plumbing.disk.files import replace

log = logging.getLogger(__name__)


class Entry(Protocol):
    """Whatever a line says of its key."""

    @property
    def public_key(self) -> str:
        """The key, as it stands in the line."""


EntryT = TypeVar("EntryT", bound=Entry)

_OTHERS_WRITE: Final = 0o022
_WORD: Final = re.compile(r"[^\s,#=]{1,200}")


class KeyFile(Generic[EntryT]):
    """One such file; any thread may call any method.

    Args:
        path: The file; it need not exist.
        read: Makes an entry of a key and its options; raises ValueError where it does not understand them.
        write: The options of an entry; an empty one is left out.
    """

    def __init__(
        self,
        path: Path,
        read: Callable[[Ed25519PublicKey, Mapping[str, str]], EntryT],
        write: Callable[[EntryT], Mapping[str, str]],
    ) -> None:
        self._path = path
        self._read = read
        self._write = write
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int, int] | None = None
        self._entries: dict[str, EntryT] = {}
        self._sound = True

    @property
    def sound(self) -> bool:
        """Whether the file says all that was meant: it can be read, and each of its lines is understood."""
        self.entries()
        return self._sound

    @property
    def stamp(self) -> object:
        """Another value whenever the file has changed."""
        self.entries()
        return self._seen

    def entries(self) -> Mapping[str, EntryT]:
        """The entries by fingerprint; of a key that stands there twice the last line counts.

        A file that cannot be read, or that other users may write, has none; the log says why.
        """
        with self._lock:
            try:
                state = self._path.stat()
            except OSError:
                self._seen, self._entries, self._sound = None, {}, not os.path.lexists(self._path)
                return self._entries
            seen = (state.st_mtime_ns, state.st_size, state.st_ino, state.st_mode)
            if seen != self._seen:
                self._sound = True
                self._entries = self._load(state.st_mode)
                self._seen = seen
            return self._entries

    def change(self, decide: Callable[[Mapping[str, EntryT]], Sequence[EntryT]]) -> Sequence[EntryT]:
        """Put entries into the file, each in place of the line of its key; all at once, or none.

        Args:
            decide: Given the entries as they are now, while nobody else writes; says which to write. What it
                raises changes nothing.

        Returns:
            What was written.

        Raises:
            UsageError: An entry would read back as something else.
            StorageError: The file cannot be written.
        """
        with told(self._path, "The key file"), alone(self._path):
            old = self._path.read_text("utf-8").splitlines() if self._path.exists() else []
            new = decide(self.entries())
            lines = dict(self._line(entry) for entry in new)
            kept = [each for each in old if not lines.keys() & set(each.split()[:1])]
            if lines:
                replace(self._path, "\n".join([*kept, *lines.values(), ""]).encode())
        return new

    def _line(self, entry: EntryT) -> tuple[str, str]:
        """An entry's key and its line."""
        given = {name: value for name, value in self._write(entry).items() if value}
        for word in (word for value in given.values() for word in value.split(",")):
            check_word(word)
        key = entry.public_key
        self._entry(parse_public(key), given)
        return key, " ".join([key, *(f"{name}={value}" for name, value in given.items())])

    def _entry(self, key: Ed25519PublicKey, options: Mapping[str, str]) -> EntryT:
        try:
            return self._read(key, options)
        except ValueError as error:
            raise UsageError(f"Its options are not understood: {error}.") from error

    def _load(self, mode: int) -> dict[str, EntryT]:
        if mode & _OTHERS_WRITE:
            log.warning("%s is ignored: others may write it. The mend: chmod 600 %s", self._path, self._path)
            self._sound = False
            return {}
        try:
            lines = self._path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            log.warning("%s is ignored: %s", self._path, error)
            self._sound = False
            return {}
        found: dict[str, EntryT] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            try:
                key, options = _parse(line)
                found[fingerprint(key)] = self._entry(key, options)
            except UsageError as error:
                log.warning("%s, line %d grants nothing: %s", self._path, number, error.message)
                self._sound = False
        return found


def _parse(line: str) -> tuple[Ed25519PublicKey, dict[str, str]]:
    word, *rest = line.split()
    options: dict[str, str] = {}
    for option in rest:
        name, _, value = option.partition("=")
        if not value or name in options:
            raise UsageError(f"`{option[:80]}` has no value or is there twice.")
        options[name] = value
    return parse_public(word), options


def check_word(word: str) -> None:
    """Raise UsageError for what would read back as something else."""
    if not _WORD.fullmatch(word):
        raise UsageError(
            f"`{word[:80]}` cannot stand in a key file.",
            mend="Leave out spaces, commas, `#` and `=`, and keep it under 200 characters.",
        )


@contextlib.contextmanager
def told(path: Path, what: str) -> Iterator[None]:
    """Turn an I/O error of the block into a StorageError that names the file."""
    try:
        yield
    except PushtrainError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(
            f"{what} {path} cannot be used: {getattr(error, 'strerror', None) or error}.",
            mend="Check who owns the state folder, and that its disk is not full.",
        ) from error


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """One writer of a file or a folder at a time, among all processes; the lock dies with its holder."""
    file = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
