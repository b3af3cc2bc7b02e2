"""A file layer for SQLite that forgets what was not synced: power cuts, full and failing disks.

Every write, truncation, deletion and sync is counted. `cut_at` cuts the power before the call with a given
number: what was synced is there, of the rest each sector of 512 bytes is there or not, as the seed says, and
nothing after that call happens.
"""

import random
from collections.abc import Callable
from pathlib import Path

import apsw

SECTOR = 512


class PowerCut(BaseException):
    """The machine is off; not an Exception, so that nothing handles it."""


class Layer(apsw.VFS):
    """The file layer.

    Args:
        name: What SQLite calls it.
        trouble: Called with the number and kind of each call; what it raises happens in its place.
    """

    def __init__(self, name: str, trouble: Callable[[int, str], None]) -> None:
        self.trouble = trouble
        self.calls = 0
        self.files: dict[str, _Durable] = {}
        super().__init__(name, "unix")

    def call(self, kind: str) -> None:
        """Count a call, which may not return."""
        self.calls += 1
        self.trouble(self.calls, kind)

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> "_File":  # noqa: N802
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        return _File(self, path, name, flags)

    def xDelete(self, path: str, sync: bool) -> None:  # noqa: N802
        self.call("delete")
        super().xDelete(path, sync)
        self.files.pop(path, None)

    def leave_behind(self, folder: Path, seed: int) -> None:
        """Write into `folder` what a machine finds that is switched on again."""
        for path, file in self.files.items():
            (folder / Path(path).name).write_bytes(file.after_power_cut(random.Random(f"{seed}{path}")))  # noqa: S311


class _Durable:
    """What the disk holds of one file for certain, and what may have arrived."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.synced = path.read_bytes() if path.exists() else b""

    def after_power_cut(self, dice: random.Random) -> bytes:
        current = self.path.read_bytes() if self.path.exists() else b""
        size = dice.choice((len(self.synced), len(current)))
        found = bytearray(self.synced[:size].ljust(size, b"\0"))
        for at in range(0, size, SECTOR):
            if current[at : at + SECTOR] != found[at : at + SECTOR] and dice.random() < 0.5:
                piece = current[at : at + SECTOR]
                found[at : at + len(piece)] = piece
        return bytes(found)


class _File(apsw.VFSFile):
    def __init__(
        self, layer: Layer, path: str, name: apsw.URIFilename | str | None, flags: list[int]
    ) -> None:
        self.layer = layer
        self.durable = layer.files.setdefault(path, _Durable(Path(path)))
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self.layer.call("write")
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self.layer.call("truncate")
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self.layer.call("sync")
        super().xSync(flags)
        self.durable.synced = self.durable.path.read_bytes()


def cut_at(number: int) -> Callable[[int, str], None]:
    """Trouble: the power goes before this call, and nothing happens after it."""

    def trouble(call: int, _kind: str) -> None:
        if call >= number:
            raise PowerCut

    return trouble


def failing(numbers: range, error: type[apsw.Error]) -> Callable[[int, str], None]:
    """Trouble: these calls fail; the ones before and after do not."""

    def trouble(call: int, _kind: str) -> None:
        if call in numbers:
            raise error

    return trouble
