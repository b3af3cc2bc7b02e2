"""What git and Git LFS bring for runs is a part of the day's downloads, and comes at no quiet hour."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from forge import FILE, Forge
from pushtrain.core.settings import Repository
from pushtrain.plumbing.data.ledger import Exhausted, Ledger, Quiet
from pushtrain.plumbing.git import lfs
from pushtrain.plumbing.git.complaint import UnsafeContent
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.git.survey import Bounds
from pushtrain.testing import NOON, Clock

MAIN = "refs/heads/main"
MB = 1_000_000
CONTENT = os.urandom(MB)
OID = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    return Forge(tmp_path / "origin.git")


def counted(
    forge: Forge, most: int, *, quiet: Callable[[], float | None] = lambda: None, size: int = 1 << 30
) -> tuple[Mirror, Ledger]:
    """A mirror of the forge for runs, of which so many bytes may come in a day."""
    home = Path(forge.url.removeprefix("file://")).parent
    ledger = Ledger(home / "downloads.json", most, quiet=quiet, clock=Clock())
    remote = Repository(key="github.com/octo/hello", remote=forge.url)
    return Mirror(home / "mirrors", remote, bounds=Bounds(size=size)).tolled(ledger), ledger


def test_commits_that_are_fetched_count_and_when_the_day_is_used_up_none_is(forge: Forge) -> None:
    mirror, ledger = counted(forge, MB)
    first = forge.push([(FILE, "a", forge.blob(CONTENT))])
    assert mirror.fetch(MAIN, first)
    assert MB < ledger.today() < 1.1 * MB
    second = forge.push([(FILE, "b", forge.blob(b"small"))])
    with pytest.raises(Exhausted):
        mirror.fetch(MAIN, second)
    assert not mirror.fetch(MAIN, first), "what is here already runs"


def test_what_a_fetch_brought_that_was_refused_counts_as_well(forge: Forge) -> None:
    commit = forge.push([(FILE, "huge", forge.blob(os.urandom(3 << 20)))])
    mirror, ledger = counted(forge, 1 << 30, size=1 << 20)
    with pytest.raises(UnsafeContent):
        mirror.fetch(MAIN, commit)
    assert ledger.today() >= 900_000


@pytest.mark.skipif(not lfs.installed(), reason="needs git-lfs")
def test_large_files_wait_for_the_hour_and_the_day_and_count_once(forge: Forge, tmp_path: Path) -> None:
    there = forge.origin / "lfs" / "objects" / OID[:2] / OID[2:4] / OID
    there.parent.mkdir(parents=True)
    there.write_bytes(CONTENT)
    pointer = lfs.Pointer(OID, MB)
    commit = forge.push([(FILE, name, forge.blob(pointer.text())) for name in ("a.bin", "b.bin")])
    hour: list[float | None] = [NOON + 60]
    mirror, ledger = counted(forge, MB + 50_000, quiet=lambda: hour[0])
    mirror.fetch(MAIN, commit)  # the commit itself is small, and comes at any hour
    with pytest.raises(Quiet):
        mirror.checkout(commit, tmp_path / "quiet")
    hour[0] = None
    mirror.checkout(commit, tmp_path / "out")
    assert (tmp_path / "out" / "b.bin").read_bytes() == CONTENT
    assert MB < ledger.today() < MB + 50_000, "two files, one content"
    lfs.content_path(mirror.git, OID).unlink()
    with pytest.raises(Exhausted) as caught:
        mirror.checkout(commit, tmp_path / "full")
    assert caught.value.needed is None, "it would do on another day"
    assert not lfs.content_path(mirror.git, OID).exists()
