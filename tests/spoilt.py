"""A pack in which the disk has changed the bytes of one object."""

from pathlib import Path

from pushtrain.plumbing.git.mirror import Mirror


def spoil(mirror: Mirror, name: str) -> None:
    """Change the bytes of an object, by its name: `COMMIT:PATH`."""
    wanted = mirror.git.run("rev-parse", name).text.strip()
    for index in (mirror.folder / "objects" / "pack").glob("*.idx"):
        for line in mirror.git.run("verify-pack", "-v", index).text.splitlines():
            oid, *about = line.split()
            if oid == wanted:
                size, offset = int(about[2]), int(about[3])
                _change(index.with_suffix(".pack"), offset + 2, offset + size)
                return
    raise AssertionError(f"{name} lies in no pack")


def _change(pack: Path, begin: int, end: int) -> None:
    pack.chmod(0o644)
    found = bytearray(pack.read_bytes())
    found[begin:end] = bytes(byte ^ 0x55 for byte in found[begin:end])
    pack.write_bytes(found)
