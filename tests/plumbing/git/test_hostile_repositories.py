"""What a hostile repository tries on the machine that fetches and checks it out; all of it with real git."""

import contextlib
import os
import resource
import subprocess
import time
from pathlib import Path

import pytest

from forge import FILE, FOLDER, LINK, Forge
from pushtrain.core.errors import GitError, NotFound
from pushtrain.core.settings import Repository
from pushtrain.plumbing.git import mirror as mirroring
from pushtrain.plumbing.git import seen
from pushtrain.plumbing.git.command import GUARDED, SAFE
from pushtrain.plumbing.git.complaint import UnsafeContent
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.git.survey import Bounds

KEY = "github.com/octo/hello"
MAIN = "refs/heads/main"


@pytest.fixture(autouse=True)
def _nobody_else_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a refused fetch leaves is cleared away after a moment, lest another one be about to name it."""
    monkeypatch.setattr(mirroring, "_MOMENT", 0.01)


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    return Forge(tmp_path / "origin.git")


def mirror_of(forge: Forge, **options: object) -> Mirror:
    repository = Repository(key=KEY, remote=forge.url)
    return Mirror(forge.origin.parent / "mirrors", repository, **options)  # type: ignore[arg-type]


def left_behind(mirror: Mirror) -> list[Path]:
    """Halves of packs."""
    return list((mirror.folder / "objects" / "pack").glob("tmp_*"))


# --- whose commit it is ---


def test_a_commit_that_only_a_fork_has_is_not_run_under_the_branch_that_is_claimed(forge: Forge) -> None:
    """GitHub serves every commit of the fork network from the parent, and so does this remote."""
    forge.git("config", "uploadpack.allowAnySHA1InWant", "true")
    base = forge.push([(FILE, "train.py", forge.blob("honest"))])
    evil = forge.commit(forge.tree([(FILE, "train.py", forge.blob("evil"))]), parents=[base])
    mirror = mirror_of(forge)
    with pytest.raises(NotFound, match="on refs/heads/main"):
        mirror.fetch(MAIN, evil)
    # Neither when the mirror has got it in another way, such as a branch that this key may not run.
    forge.git("update-ref", "refs/heads/eve", evil)
    assert mirror.fetch("refs/heads/eve", evil)
    assert mirror.commits.has(evil)
    with pytest.raises(NotFound, match="on refs/heads/main"):
        mirror.fetch(MAIN, evil)


def test_what_was_on_the_branch_once_stays_runnable_when_the_branch_is_pushed_over(forge: Forge) -> None:
    first = forge.push([(FILE, "a", forge.blob("1"))])
    mirror = mirror_of(forge)
    assert mirror.fetch(MAIN, first)
    second = forge.push([(FILE, "a", forge.blob("2"))])
    assert mirror.fetch(MAIN, second)
    assert not mirror.fetch(MAIN, first)
    forge.git("update-ref", "-d", MAIN)
    assert not mirror.fetch(MAIN, first)
    # Also by a mirror that had to be made anew, where the host still gives the commit out.
    forge.git("config", "uploadpack.allowAnySHA1InWant", "true")
    subprocess.run(["rm", "-rf", mirror.folder], check=True)
    assert mirror.fetch(MAIN, first)
    never = forge.commit(forge.tree([(FILE, "a", forge.blob("3"))]))
    with pytest.raises(NotFound):
        mirror.fetch(MAIN, never)


def test_an_ancestor_of_the_tip_is_of_the_branch(forge: Forge) -> None:
    first = forge.push([(FILE, "a", forge.blob("1"))])
    second = forge.commit(forge.tree([(FILE, "a", forge.blob("2"))]), parents=[first])
    forge.git("update-ref", MAIN, second)
    mirror = mirror_of(forge)
    assert mirror.fetch(MAIN, first)
    assert not mirror.fetch(MAIN, second)


def test_a_tags_commit_is_of_the_tag(forge: Forge) -> None:
    commit = forge.push([(FILE, "a", forge.blob("1"))])
    who = ("-c", "user.name=Eve", "-c", "user.email=e@e.example")
    forge.git(*who, "tag", "-a", "-m", "one", "v1", commit)
    assert mirror_of(forge).fetch("refs/tags/v1", commit)


def test_the_memory_of_what_was_seen_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "_LARGEST", 2000)
    memory = seen.Seen(tmp_path / "seen")
    commits = [f"{number:040x}" for number in range(200)]
    for commit in commits:
        memory.add("a" * 16, commit)
        assert memory.has("a" * 16, commit)
        assert not memory.has("b" * 16, commit)
    assert not memory.has("a" * 16, commits[0])
    assert memory.has("a" * 16, commits[-2])
    assert (tmp_path / "seen").stat().st_size < 4000


# --- names in the tree ---

DOT_GIT = [
    ".git/config",
    ".GIT/config",
    ".Git/hooks/post-checkout",
    "sub/.git/config",
    "git~1/config",
    "GIT~1/config",
    ".git /config",
    ".git./config",
    ".git::$INDEX_ALLOCATION/config",
    ".g\u200cit/config",
    "\u200e.git/config",
    ".git\u202e/config",
    "a\\.git\\config",
    "../outside",
    "./x",
]


@pytest.mark.parametrize("checks", [True, False], ids=["fsck", "without-fsck"])
@pytest.mark.parametrize("path", DOT_GIT, ids=map(ascii, DOT_GIT))
def test_a_tree_with_a_git_folder_in_any_spelling_is_refused_and_nothing_is_written(
    forge: Forge, tmp_path: Path, path: str, checks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the fetch's own checks, and where those were not there: the second line holds by itself."""
    if not checks:
        monkeypatch.setattr("pushtrain.plumbing.git.command.SAFE", without_fsck())
    evil = forge.blob("[core]\n\tfsmonitor = touch /tmp/pwned\n")
    commit = forge.push([(FILE, "honest", forge.blob("x")), forge.nested(path, FILE, evil)])
    mirror = mirror_of(forge)
    with pytest.raises(UnsafeContent):
        fetch_and_check_out(mirror, commit, tmp_path / "out")
    written = [one for one in tmp_path.rglob("*") if one.is_file() and b"pwned" in one.read_bytes()]
    assert [one for one in written if not one.is_relative_to(forge.origin)] == []
    assert left_behind(mirror) == []


def without_fsck() -> tuple[str, ...]:
    return tuple(one for one in SAFE if not one.startswith("fetch.fsckObjects"))


def fetch_and_check_out(mirror: Mirror, commit: str, into: Path) -> None:
    mirror.fetch(MAIN, commit)
    mirror.checkout(commit, into)


@pytest.mark.parametrize("checks", [True, False], ids=["fsck", "without-fsck"])
@pytest.mark.parametrize("order", ["link-first", "folder-first"])
def test_nothing_is_written_through_a_link_that_a_tree_has_twice(
    forge: Forge, tmp_path: Path, order: str, checks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree that holds one name as a link to the outside and as a folder with a file for there."""
    if not checks:
        monkeypatch.setattr("pushtrain.plumbing.git.command.SAFE", without_fsck())
    outside = tmp_path / "outside"
    outside.mkdir()
    link = (LINK, "a", forge.blob(str(outside)))
    folder = (FOLDER, "a", forge.tree([(FILE, "planted", forge.blob("evil"))]))
    entries = [link, folder] if order == "link-first" else [folder, link]
    commit = forge.commit(forge.tree(entries, sort=False))
    forge.git("update-ref", MAIN, commit)
    mirror = mirror_of(forge)
    if checks:
        with pytest.raises(UnsafeContent):
            mirror.fetch(MAIN, commit)
    else:
        with contextlib.suppress(GitError):
            fetch_and_check_out(mirror, commit, tmp_path / "out")
    assert list(outside.iterdir()) == []


def test_links_in_a_commit_are_copied_as_links_and_never_followed(forge: Forge, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the owner's")
    names = ("data", "results", "workdir", "deep")
    commit = forge.push([(LINK, name, forge.blob(str(secret))) for name in names])
    mirror = mirror_of(forge)
    fetch_and_check_out(mirror, commit, tmp_path / "out")
    for name in names:
        assert (tmp_path / "out" / name).is_symlink()
    assert secret.read_text() == "the owner's"


def test_odd_but_harmless_names_come_through_as_they_are(forge: Forge, tmp_path: Path) -> None:
    names = [
        b"new\nline",
        b"tab\there",
        b"esc\x1b]0;pwned\x07",
        b"\xff\xfe invalid",
        b"-rf",
        b"--upload-pack=x",
    ]
    names += ["\u202eevil".encode(), b"README", b"readme", b"CON", b"a:b", b"name with spaces "]
    content = forge.blob("x")
    commit = forge.push([(FILE, name, content) for name in names])
    mirror = mirror_of(forge)
    fetch_and_check_out(mirror, commit, tmp_path / "out")
    assert {os.fsencode(one.name) for one in (tmp_path / "out").iterdir()} == set(names)
    assert len(mirror.commits.list(commit)) == len(names)


@pytest.mark.parametrize(
    "path",
    ["/".join(["d"] * 200) + "/f", "/".join(["d" * 100] * 30) + "/f", "n" * 300],
    ids=["deep", "long", "long-name"],
)
def test_a_path_that_cannot_be_written_is_refused_before_anything_is(
    forge: Forge, tmp_path: Path, path: str
) -> None:
    commit = forge.push([(FILE, "a", forge.blob("1")), forge.nested(path, FILE, forge.blob("x"))])
    mirror = mirror_of(forge)
    with pytest.raises(UnsafeContent, match="too long or too deep"):
        fetch_and_check_out(mirror, commit, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (mirror.pristine.folder / "work").exists()


# --- bombs ---


def git_bomb(forge: Forge, *, levels: int = 10, width: int = 10, content: bytes = b"boom") -> str:
    """Ten folders that are one, ten deep: a kilobyte that stands for ten thousand million files."""
    mode, oid = FILE, forge.blob(content)
    for _ in range(levels):
        oid = forge.tree([(mode, f"f{number}", oid) for number in range(width)])
        mode = FOLDER
    commit = forge.commit(oid)
    forge.git("update-ref", MAIN, commit)
    return commit


def test_a_bomb_of_folders_is_refused_in_seconds_and_writes_nothing(forge: Forge, tmp_path: Path) -> None:
    commit = git_bomb(forge)
    mirror = mirror_of(forge, bounds=Bounds(files=50_000))
    begin = time.monotonic()
    with pytest.raises(UnsafeContent, match="more than 50,000 files") as error:
        fetch_and_check_out(mirror, commit, tmp_path / "out")
    assert time.monotonic() - begin < 20
    assert "rules.limits.files" in error.value.mend
    assert not (mirror.pristine.folder / "work").exists()


def test_a_bomb_of_bytes_is_refused_before_it_is_written(forge: Forge, tmp_path: Path) -> None:
    """Ten thousand files of a megabyte of zeros each, in a pack of a few kilobytes."""
    commit = git_bomb(forge, levels=4, content=bytes(1 << 20))
    mirror = mirror_of(forge, bounds=Bounds(size=100 << 20))
    with pytest.raises(UnsafeContent, match="more than 104,857,600 bytes") as error:
        fetch_and_check_out(mirror, commit, tmp_path / "out")
    assert "rules.limits.repository" in error.value.mend
    assert not (mirror.pristine.folder / "work").exists()


def test_a_commit_that_does_not_fit_on_the_disk_is_refused(
    forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = forge.push([(FILE, "a", forge.blob("x" * 5000))])
    mirror = mirror_of(forge)
    mirror.fetch(MAIN, commit)
    usage = type("Usage", (), {"free": 4000})()
    monkeypatch.setattr("pushtrain.plumbing.git.checkout.shutil.disk_usage", lambda _: usage)
    with pytest.raises(UnsafeContent, match="Free some disk space"):
        mirror.checkout(commit, tmp_path / "out")


def test_a_pack_beyond_the_limit_is_cut_off_and_leaves_nothing(forge: Forge) -> None:
    commit = forge.push([(FILE, "huge", forge.blob(os.urandom(3 << 20)))])
    mirror = mirror_of(forge, bounds=Bounds(size=1 << 20))
    with pytest.raises(UnsafeContent, match="larger than it may be here"):
        mirror.fetch(MAIN, commit)
    assert left_behind(mirror) == []
    assert sum(one.stat().st_size for one in mirror.folder.rglob("*") if one.is_file()) < 1 << 20


def test_an_object_that_swells_in_memory_ends_git_and_not_the_machine(
    forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delta of a few bytes may stand for gigabytes, and git builds it in memory to hash it."""
    monkeypatch.setitem(GUARDED, resource.RLIMIT_DATA, 192 << 20)
    first = bytes(150 << 20)
    forge.blob(first)
    commit = forge.push([(FILE, "a", forge.blob(first)), (FILE, "b", forge.blob(first + b"x"))])
    forge.git("repack", "-adfq", "--window=10")
    mirror = mirror_of(forge)
    with pytest.raises(GitError, match=r"larger than it may be here|memory"):
        mirror.fetch(MAIN, commit)
    assert left_behind(mirror) == []
