"""Mirrors and checkouts, with real git and real remotes."""

import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pushtrain.core.errors import (
    Cancelled,
    CredentialError,
    GitError,
    NotFound,
    StorageError,
    UsageError,
)
from pushtrain.core.runs.precedence import Order
from pushtrain.core.settings import Repository
from pushtrain.core.values.push import NO_COMMIT
from pushtrain.demo.host import Host
from pushtrain.plumbing.git import lfs
from pushtrain.plumbing.git.checkout import clone
from pushtrain.plumbing.git.complaint import BrokenRepository
from pushtrain.plumbing.git.lineage import order
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.git.submodules import resolve
from pushtrain.testing import WorkRepository
from spoilt import spoil

Make = Callable[..., WorkRepository]
KEY = "github.com/octo/hello"


@pytest.fixture
def origin(tmp_path: Path) -> str:
    folder = tmp_path / "origin.git"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(folder)], check=True)
    return f"file://{folder}"


@pytest.fixture
def work(repository: Make, origin: str) -> WorkRepository:
    return repository("work", remote=origin)


@pytest.fixture
def mirror(tmp_path: Path, origin: str) -> Mirror:
    return Mirror(tmp_path / "mirrors", Repository(key=KEY, remote=origin))


def pushed(work: WorkRepository, files: dict[str, str | bytes], message: str = "A change") -> str:
    commit = work.commit(files, message)
    work.push()
    return commit


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if not path.is_symlink() else b"-> "
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


# --- fetching and reading ---


def test_a_commit_is_fetched_once(work: WorkRepository, mirror: Mirror) -> None:
    commit = pushed(work, {"a": "1"})
    assert not mirror.commits.has(commit)
    assert mirror.fetch("refs/heads/main", commit)
    assert mirror.commits.has(commit)
    assert not mirror.fetch("refs/heads/main", commit)


def test_one_call_reads_message_and_files(work: WorkRepository, mirror: Mirror) -> None:
    commit = pushed(work, {"pushtrain.toml": "x = 1\n", "b/c": b"\0\xff"}, "Subject line\n\nBody\nmore")
    mirror.fetch("refs/heads/main", commit)
    info, files = mirror.commits.read(commit, ["pushtrain.toml", "b/c", "nope", "b", "new\nline"])
    assert info.subject == "Subject line"
    assert info.message == "Subject line\n\nBody\nmore\n"
    assert info.author == "Ada"
    assert files == {
        "pushtrain.toml": b"x = 1\n",
        "b/c": b"\0\xff",
        "nope": None,
        "b": None,
        "new\nline": None,
    }
    assert mirror.commits.show(commit, "b/c") == b"\0\xff"
    assert mirror.commits.message(commit) == info.message
    assert mirror.commits.list(commit) == ["b/c", "pushtrain.toml"]
    assert mirror.commits.list(commit, "b") == ["b/c"]


def test_an_unknown_commit_is_not_found(mirror: Mirror) -> None:
    with pytest.raises(NotFound):
        mirror.commits.read("1" * 40, ["x"])
    mirror.ensure()
    with pytest.raises(NotFound):
        mirror.commits.read("1" * 40, ["x"])
    assert not mirror.commits.is_ancestor("1" * 40, "2" * 40)


def test_ls_remote_tells_branches_tags_and_the_default(work: WorkRepository, mirror: Mirror) -> None:
    commit = pushed(work, {"a": "1"})
    work.git("tag", "-a", "v1", "-m", "one")
    work.git("branch", "feature/x")
    work.push("feature/x")
    work.push("v1")
    assert mirror.ls_remote() == {
        "refs/heads/main": commit,
        "refs/heads/feature/x": commit,
        "refs/tags/v1": commit,
    }
    assert mirror.default_branch() == "refs/heads/main"


def test_an_empty_remote_has_no_branches(mirror: Mirror) -> None:
    assert mirror.ls_remote() == {}
    assert mirror.default_branch() == "refs/heads/main"


def test_changes_and_ancestry_between_commits(work: WorkRepository, mirror: Mirror) -> None:
    first = pushed(work, {"a": "1", "b": "1"})
    second = pushed(work, {"a": "2", "ü c": "3"})
    mirror.fetch("refs/heads/main", second)
    assert mirror.commits.changed(first, second) == ["a", "ü c"]
    assert mirror.commits.changed(NO_COMMIT, second) is None
    assert mirror.commits.changed("3" * 40, second) is None
    assert mirror.commits.is_ancestor(first, second)
    assert not mirror.commits.is_ancestor(second, first)


def test_a_commit_that_was_pushed_over_is_said_to_be_gone(work: WorkRepository, mirror: Mirror) -> None:
    pushed(work, {"a": "1"})
    with pytest.raises(NotFound, match="has no commit 111111111111") as error:
        mirror.fetch("refs/heads/main", "1" * 40)
    assert "push again" in error.value.mend
    with pytest.raises(NotFound, match="has no commit"):
        mirror.fetch("refs/heads/gone", "1" * 40)


def test_a_branch_that_became_a_folder_is_no_trouble(work: WorkRepository, mirror: Mirror) -> None:
    first = pushed(work, {"a": "1"})
    work.push("main:refs/heads/x")
    mirror.fetch("refs/heads/x", first)
    work.push(":refs/heads/x")
    second = work.commit({"a": "2"})
    work.push("main:refs/heads/x/y")
    assert mirror.fetch("refs/heads/x/y", second)


def test_a_missing_repository_is_not_found(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "m", Repository(key=KEY, remote=f"file://{tmp_path}/nowhere.git"))
    with pytest.raises(NotFound):
        mirror.ls_remote()
    with pytest.raises(NotFound):
        mirror.fetch("refs/heads/main", "1" * 40)


def test_bad_names_never_reach_git(tmp_path: Path, mirror: Mirror) -> None:
    with pytest.raises(UsageError):
        mirror.fetch("--upload-pack=touch x", "1" * 40)
    with pytest.raises(UsageError):
        mirror.commits.has("HEAD")
    with pytest.raises(UsageError):
        mirror.checkout("--help", tmp_path / "x")
    with pytest.raises(UsageError):
        Mirror(tmp_path, Repository(key=KEY, remote="ext::sh -c id"))


def test_two_keys_never_share_a_mirror(tmp_path: Path, origin: str) -> None:
    keys = [
        "github.com/a/b",
        "github.com/a__b/c",
        "github.com/a/b__c",
        "github.com/" + "x" * 300,
        "host:80/a/b",
    ]
    folders = {Mirror(tmp_path, Repository(key=key, remote=origin)).folder for key in keys}
    assert len(folders) == len(keys)
    assert all(len(folder.name) < 200 and folder.parent == tmp_path for folder in folders)


def test_many_threads_fetch_and_check_out_at_once(
    work: WorkRepository, mirror: Mirror, tmp_path: Path
) -> None:
    commits = [pushed(work, {"a": str(number), f"f{number}": "x"}) for number in range(4)]

    def one(number: int) -> bool:
        commit = commits[number % 4]
        mirror.fetch("refs/heads/main", commit)
        into = tmp_path / f"out{number}"
        mirror.checkout(commit, into)
        return (into / "a").read_text() == str(number % 4) and not (into / f"f{number % 4 + 1}").exists()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(16)))


def test_a_damaged_mirror_is_made_anew(work: WorkRepository, mirror: Mirror, tmp_path: Path) -> None:
    first = pushed(work, {"a": "1"})
    mirror.fetch("refs/heads/main", first)
    mirror.checkout(first, tmp_path / "one")
    for pack in (mirror.folder / "objects" / "pack").iterdir():
        pack.chmod(0o600)
        pack.write_bytes(b"")
    second = pushed(work, {"a": "2"})
    assert mirror.fetch("refs/heads/main", second)
    mirror.checkout(second, tmp_path / "two")
    assert (tmp_path / "two" / "a").read_text() == "2"


class Elsewhere:
    """Another thread finds the mirror damaged while we look whether it holds a commit, and makes it anew."""

    def __init__(self, mirror: Mirror, error: GitError, *, again: bool) -> None:
        self.mirror, self.error, self.again = mirror, error, again
        self.real = mirror._holds
        self.born = ""

    def holds(self, short: str, commit: str) -> bool:
        """Whether it is there; the first time all goes wrong."""
        if not self.born:
            self.mirror._set_aside()
            if self.again:
                self.mirror.ensure()
            self.born = self.mirror.birth() or "-"
            raise self.error
        return self.real(short, commit)


def test_which_push_is_newer_is_told_also_when_the_mirror_proves_damaged(
    mirror: Mirror, work: WorkRepository
) -> None:
    """A history that cannot be read was taken for one that the older commit is not in."""
    first, second, third = (pushed(work, {"a": text}) for text in "123")
    mirror.fetch("refs/heads/main", third)
    spoil(mirror, f"{second}^{{commit}}")
    assert order(mirror, "refs/heads/main", third, first) is Order.NEWER


def test_who_waits_for_anothers_checkout_hears_a_wish_to_stop(
    mirror: Mirror, work: WorkRepository, tmp_path: Path
) -> None:
    """The other one may be fetching large files for an hour; a cancel was heard of after it."""
    commit = pushed(work, {"a": "1"})
    mirror.fetch("refs/heads/main", commit)
    mirror.checkout(commit, tmp_path / "one")

    def stop() -> None:
        raise Cancelled("Enough.")

    with (mirror.pristine.folder / "lock").open("ab") as other, ThreadPoolExecutor(1) as pool:
        fcntl.flock(other, fcntl.LOCK_EX)
        waits = pool.submit(mirror.checkout, commit, tmp_path / "two", stop=stop)
        try:
            assert isinstance(waits.exception(5), Cancelled)
        finally:
            fcntl.flock(other, fcntl.LOCK_UN)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("kind", [GitError, BrokenRepository])
def test_a_mirror_that_another_thread_makes_anew_meanwhile_is_neither_given_up_nor_made_once_more(
    work: WorkRepository, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, kind: type[GitError], again: bool
) -> None:
    commit = pushed(work, {"a": "1"})
    mirror.fetch("refs/heads/main", commit)
    elsewhere = Elsewhere(mirror, kind("git could not cat-file: there is no such folder."), again=again)
    monkeypatch.setattr(mirror, "_holds", elsewhere.holds)
    assert mirror.fetch("refs/heads/main", commit)
    assert not again or mirror.birth() == elsewhere.born


@pytest.mark.parametrize(("before", "asides"), [(True, 1), (False, 0)])
def test_a_mirror_that_was_made_in_this_very_call_is_not_set_aside_again(
    work: WorkRepository, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, before: bool, asides: int
) -> None:
    """Whatever looks like damage there came from the host: once more would be of no use to anybody."""
    commit = pushed(work, {"a": "1"})
    if before:
        mirror.ensure()
    really, gone = mirror._set_aside, []

    def set_aside() -> None:
        gone.append(mirror.birth())
        really()

    monkeypatch.setattr(mirror, "_set_aside", set_aside)

    def fetch_into(*_: object, **__: object) -> None:
        raise BrokenRepository("git could not fetch: fatal: bad object.")

    monkeypatch.setattr(mirror, "fetch_into", fetch_into)
    with pytest.raises(BrokenRepository):
        mirror.fetch("refs/heads/main", commit)
    assert len(gone) == asides


def test_what_is_wrong_with_a_mirror_that_stays_is_told(
    work: WorkRepository, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = pushed(work, {"a": "1"})
    mirror.fetch("refs/heads/main", commit)
    tries = []

    def holds(short: str, _: str) -> bool:
        tries.append(short)
        raise GitError("git could not cat-file.")

    monkeypatch.setattr(mirror, "_holds", holds)
    with pytest.raises(GitError, match="could not cat-file"):
        mirror.fetch("refs/heads/main", commit)
    assert len(tries) == 1


def test_after_a_restart_of_the_machine_the_kept_tree_is_made_anew(
    work: WorkRepository, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power failure empties files that were not flushed; git goes by their size, and we by the commit."""
    commit = pushed(work, {"a": "1"})
    mirror.fetch("refs/heads/main", commit)
    mirror.checkout(commit, tmp_path / "one")
    (mirror.pristine.folder / "work" / "a").write_text("")
    monkeypatch.setattr("pushtrain.plumbing.git.checkout.boot_id", lambda: "another")
    mirror.checkout(commit, tmp_path / "two")
    assert (tmp_path / "two" / "a").read_text() == "1"


def test_a_pack_that_another_program_is_about_to_put_in_its_place_outlives_a_failed_fetch(
    work: WorkRepository, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """git has closed it, and has not renamed it yet; what a failed fetch has left stays as it is."""
    commit = pushed(work, {"a": "1"})
    mirror.fetch("refs/heads/main", commit)
    packs = mirror.folder / "objects" / "pack"
    (packs / "tmp_pack_left").write_bytes(b"half")
    (packs / "tmp_pack_whole").write_bytes(b"whole")
    monkeypatch.setattr(
        "pushtrain.plumbing.git.mirror.time.sleep",
        lambda _: (packs / "tmp_pack_whole").rename(packs / "pack-1.pack"),
    )
    with pytest.raises(NotFound):
        mirror.fetch_into("refs/heads/none", "refs/fetched/none")
    assert (packs / "pack-1.pack").read_bytes() == b"whole"
    assert not list(packs.glob("tmp_*"))


def test_many_packs_are_joined(work: WorkRepository, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushtrain.plumbing.git.mirror._MANY_PACKS", 3)
    commits = [pushed(work, {"a": str(number)}) for number in range(6)]
    for commit in commits:
        mirror.fetch("refs/heads/main", commit)
    packs = list((mirror.folder / "objects" / "pack").glob("*.pack"))
    assert len(packs) <= 4
    assert all(mirror.commits.has(commit) for commit in commits)


def test_a_fetch_ends_when_somebody_wants_it_to(work: WorkRepository, mirror: Mirror) -> None:
    commit = pushed(work, {"a": "1"})

    def stop() -> None:
        raise Cancelled("Enough.")

    with pytest.raises(Cancelled):
        mirror.fetch("refs/heads/main", commit, stop=stop)
    assert mirror.fetch("refs/heads/main", commit)


def test_a_held_lock_is_waited_for_until_stopped(work: WorkRepository, mirror: Mirror) -> None:
    commit = pushed(work, {"a": "1"})
    asked = threading.Event()

    def stop() -> None:
        asked.set()
        raise Cancelled("Enough.")

    with mirror._locked(None), pytest.raises(Cancelled):
        mirror.fetch("refs/heads/main", commit, stop=stop)
    assert asked.is_set()


def test_over_http_the_token_opens_the_repository_and_a_wrong_one_does_not(
    git_host: Host, repository: Make, tmp_path: Path
) -> None:
    remote = git_host.create("octo/hello")
    work = repository("work", remote=remote, token=git_host.token)
    commit = pushed(work, {"a": "1"})
    open_ = Mirror(tmp_path / "open", Repository(key=KEY, remote=remote), token=git_host.token)
    assert open_.fetch("refs/heads/main", commit)
    for token in ("wrong", ""):
        shut = Mirror(tmp_path / f"shut{token}", Repository(key=KEY, remote=remote), token=token)
        with pytest.raises(CredentialError) as error:
            shut.fetch("refs/heads/main", commit)
        assert "PUSHTRAIN_GIT_TOKEN" in error.value.mend
        assert git_host.token not in str(error.value)


# --- checking out ---


def test_a_checkout_is_exactly_the_commit(work: WorkRepository, mirror: Mirror, tmp_path: Path) -> None:
    work.write({"run.sh": "#!/bin/sh\n", "d/e/f": "deep", "empty": "", "big": b"x" * 300_000})
    (work.folder / "run.sh").chmod(0o755)
    (work.folder / "link").symlink_to("d/e")
    commit = pushed(work, {})
    mirror.fetch("refs/heads/main", commit)
    out = mirror.checkout(commit, tmp_path / "out")
    assert tree(tmp_path / "out") == {
        "run.sh": b"#!/bin/sh\n", "d/e/f": b"deep", "empty": b"", "big": b"x" * 300_000, "link": b"-> ",
    }  # fmt: skip
    assert (tmp_path / "out" / "link").readlink() == Path("d/e")
    assert (tmp_path / "out" / "run.sh").stat().st_mode & stat.S_IXUSR
    assert not (tmp_path / "out" / "empty").stat().st_mode & stat.S_IXUSR
    assert (out.files, out.size, out.lfs_files) == (5, 300_014, 0)


def test_each_checkout_is_its_own_copy(work: WorkRepository, mirror: Mirror, tmp_path: Path) -> None:
    commit = pushed(work, {"a": "1", "big": b"y" * 200_000})
    mirror.fetch("refs/heads/main", commit)
    mirror.checkout(commit, tmp_path / "one")
    (tmp_path / "one" / "a").write_text("changed by the job")
    (tmp_path / "one" / "big").write_bytes(b"")
    mirror.checkout(commit, tmp_path / "two")
    assert (tmp_path / "two" / "a").read_text() == "1"
    assert (tmp_path / "two" / "big").stat().st_size == 200_000
    assert all(path.stat().st_nlink == 1 for path in (tmp_path / "two").iterdir())
    assert not list((tmp_path / "two").rglob(".git"))


def test_going_back_and_forth_leaves_no_strays(work: WorkRepository, mirror: Mirror, tmp_path: Path) -> None:
    first = pushed(work, {"a": "1", "only-first/x": "1", "turns": "file"})
    work.git("rm", "-rq", "only-first", "turns")
    second = pushed(work, {"a": "2", "turns/folder": "now"})
    mirror.fetch("refs/heads/main", second)
    for number, commit in enumerate((first, second, first, second)):
        mirror.checkout(commit, tmp_path / str(number))
    assert tree(tmp_path / "0") == tree(tmp_path / "2") == {"a": b"1", "only-first/x": b"1", "turns": b"file"}
    assert tree(tmp_path / "1") == tree(tmp_path / "3") == {"a": b"2", "turns/folder": b"now"}


def test_a_tree_whose_update_was_cut_short_is_made_anew(
    work: WorkRepository, mirror: Mirror, tmp_path: Path
) -> None:
    first = pushed(work, {"a": "1"})
    second = pushed(work, {"a": "2"})
    mirror.fetch("refs/heads/main", second)
    mirror.checkout(first, tmp_path / "one")
    # As if killed half-way: the mark is there, a lock, a stray and a half-written file.
    (mirror.pristine.folder / "changing").touch()
    (mirror.pristine.folder / "index.lock").touch()
    (mirror.pristine.folder / "work" / "stray").write_text("?")
    (mirror.pristine.folder / "work" / "a").write_text("ha")
    mirror.checkout(first, tmp_path / "two")
    assert tree(tmp_path / "two") == {"a": b"1"}
    mirror.checkout(second, tmp_path / "three")
    assert tree(tmp_path / "three") == {"a": b"2"}


def test_a_stopped_checkout_can_be_done_again(work: WorkRepository, mirror: Mirror, tmp_path: Path) -> None:
    commit = pushed(work, {"a": "1"})
    mirror.fetch("refs/heads/main", commit)

    def stop() -> None:
        raise Cancelled("Enough.")

    with pytest.raises(Cancelled):
        mirror.checkout(commit, tmp_path / "one", stop=stop)
    mirror.checkout(commit, tmp_path / "two")
    assert tree(tmp_path / "two") == {"a": b"1"}


def test_a_commit_that_is_not_there_cannot_be_checked_out(mirror: Mirror, tmp_path: Path) -> None:
    mirror.ensure()
    with pytest.raises(GitError):
        mirror.checkout("1" * 40, tmp_path / "out")


def test_a_checkout_into_a_used_folder_is_a_storage_error(
    work: WorkRepository, mirror: Mirror, tmp_path: Path
) -> None:
    commit = pushed(work, {"a": "1"})
    mirror.fetch("refs/heads/main", commit)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("mine")
    with pytest.raises(StorageError):
        mirror.checkout(commit, tmp_path / "out")
    assert (tmp_path / "out" / "a").read_text() == "mine"


def test_no_hook_filter_or_attribute_of_the_repository_runs_anything(
    work: WorkRepository, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    witness = tmp_path / "witness"
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "pre-push", "reference-transaction", "post-index-change"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {witness}\n")
        (hooks / name).chmod(0o755)
    config.write_text(
        f'[core]\n\thooksPath = {hooks}\n\tfsmonitor = "touch {witness}"\n'
        f'[filter "evil"]\n\tsmudge = touch {witness}\n\tclean = touch {witness}\n\trequired = true\n'
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    commit = pushed(work, {".gitattributes": "* filter=evil\n", "a": "1"})
    mirror.fetch("refs/heads/main", commit)
    mirror.checkout(commit, tmp_path / "out")
    assert (tmp_path / "out" / "a").read_text() == "1"
    assert not witness.exists()


# --- LFS ---


def lfs_pushed(work: WorkRepository, origin: str, content: bytes) -> str:
    """Push a pointer, and put its content where git-lfs keeps it beside a repository of this machine."""
    pointer = lfs.Pointer(hashlib.sha256(content).hexdigest(), len(content))
    store = Path(origin.removeprefix("file://")) / "lfs" / "objects" / pointer.oid[:2] / pointer.oid[2:4]
    store.mkdir(parents=True)
    (store / pointer.oid).write_bytes(content)
    attributes = "*.bin filter=lfs diff=lfs merge=lfs -text\n"
    return pushed(work, {"model.bin": pointer.text(), "plain": "text", ".gitattributes": attributes})


def test_lfs_pointers_become_their_content(
    work: WorkRepository, mirror: Mirror, origin: str, tmp_path: Path
) -> None:
    content = os.urandom(50_000)
    commit = lfs_pushed(work, origin, content)
    mirror.fetch("refs/heads/main", commit)
    if not lfs.installed():  # then the promise is another one
        with pytest.raises(GitError, match="git-lfs is not installed"):
            mirror.checkout(commit, tmp_path / "out")
        return
    out = mirror.checkout(commit, tmp_path / "out")
    assert (tmp_path / "out" / "model.bin").read_bytes() == content
    assert out.lfs_files == 1
    pointer = lfs.parse((mirror.pristine.folder / "work" / "model.bin").read_bytes())
    assert pointer is not None
    assert pointer.size == 50_000
    # The content is kept: with the remote's gone, the next checkout still has it.
    shutil.rmtree(Path(origin.removeprefix("file://")) / "lfs")
    mirror.checkout(commit, tmp_path / "again")
    assert (tmp_path / "again" / "model.bin").read_bytes() == content


def test_lfs_content_that_the_remote_lacks_is_an_error(
    work: WorkRepository, mirror: Mirror, origin: str, tmp_path: Path
) -> None:
    commit = lfs_pushed(work, origin, b"x" * 2000)
    shutil.rmtree(Path(origin.removeprefix("file://")) / "lfs")
    mirror.fetch("refs/heads/main", commit)
    with pytest.raises(GitError):
        mirror.checkout(commit, tmp_path / "out")
    mirror.checkout(commit, tmp_path / "without", lfs=False)
    assert lfs.parse((tmp_path / "without" / "model.bin").read_bytes()) is not None


def test_without_git_lfs_pointers_are_an_error_with_the_mend(
    work: WorkRepository, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pointer = lfs.Pointer("ab" * 32, 12345)
    commit = pushed(work, {"model.bin": pointer.text(), "other.bin": pointer.text()})
    mirror.fetch("refs/heads/main", commit)
    monkeypatch.setattr(lfs.shutil, "which", lambda _: None)  # type: ignore[attr-defined]
    with pytest.raises(GitError, match=r"model\.bin, other\.bin are Git LFS pointers") as error:
        mirror.checkout(commit, tmp_path / "out")
    assert "apt install git-lfs" in error.value.mend
    assert "lfs = false" in error.value.mend


def test_only_a_whole_pointer_is_a_pointer() -> None:
    text = lfs.Pointer("cd" * 32, 7).text()
    assert lfs.parse(text) == lfs.Pointer("cd" * 32, 7)
    assert lfs.parse(text[:-1]) is None
    assert lfs.parse(text + b"x" * 2000) is None
    assert lfs.parse(b"version https://git-lfs.github.com/spec/v1\noid sha256:zz\nsize 1\n") is None


# --- submodules ---


def test_submodules_are_placed_at_their_recorded_commits(
    repository: Make, work: WorkRepository, mirror: Mirror, tmp_path: Path
) -> None:
    lib_origin = tmp_path / "lib.git"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(lib_origin)], check=True)
    lib = repository("lib", remote=f"file://{lib_origin}")
    wanted = pushed(lib, {"lib.py": "v1"})
    pushed(lib, {"lib.py": "v2"})
    work.write({".gitmodules": '[submodule "x"]\n\tpath = deps/lib\n\turl = ../lib.git\n', "a": "1"})
    work.git("update-index", "--add", "--cacheinfo", f"160000,{wanted},deps/lib")
    work.git("add", "a", ".gitmodules")
    work.git("commit", "-qm", "with a submodule")
    work.push()
    commit = work.head()
    mirror = Mirror(mirror.home, mirror.remote, lent=lambda key: key.endswith("/lib"))
    mirror.fetch("refs/heads/main", commit)
    without = mirror.checkout(commit, tmp_path / "without")
    assert list((tmp_path / "without" / "deps" / "lib").iterdir()) == []
    out = mirror.checkout(commit, tmp_path / "out", submodules=True)
    assert tree(tmp_path / "out" / "deps") == {"lib/lib.py": b"v1"}
    assert out.files == without.files + 1


@pytest.mark.parametrize(
    ("parent", "url", "expected"),
    [
        ("https://github.com/octo/hello.git", "../lib.git", "https://github.com/octo/lib.git"),
        ("https://github.com/octo/hello", "../../acme/lib", "https://github.com/acme/lib"),
        ("git@github.com:octo/hello.git", "../lib.git", "git@github.com:octo/lib.git"),
        ("/srv/git/hello.git", "../lib.git", "/srv/git/lib.git"),
        ("file:///srv/git/hello.git", "../lib.git", "file:///srv/git/lib.git"),
        ("https://github.com/octo/hello", "git@github.com:octo/lib.git", "git@github.com:octo/lib.git"),
    ],
)
def test_a_submodules_url_is_relative_to_its_parent(parent: str, url: str, expected: str) -> None:
    assert resolve(parent, url) == expected


@pytest.mark.parametrize(
    "url", ["file:///home/owner/secret", "/home/owner/secret", "ext::sh -c id", "-x", "https://a:b@c/d", ""]
)
def test_a_submodule_cannot_reach_the_owners_disk(url: str) -> None:
    with pytest.raises(GitError):
        resolve("https://github.com/octo/hello", url)


def test_a_submodule_without_url_names_its_path(work: WorkRepository, mirror: Mirror, tmp_path: Path) -> None:
    first = pushed(work, {"a": "1"})
    work.git("update-index", "--add", "--cacheinfo", f"160000,{first},deps/lib")
    work.git("commit", "-qm", "a link to nowhere")
    work.push()
    mirror.fetch("refs/heads/main", work.head())
    with pytest.raises(GitError, match="deps/lib"):
        mirror.checkout(work.head(), tmp_path / "out", submodules=True)


# --- size ---


@pytest.mark.slow
def test_a_large_tree_is_copied_whole(work: WorkRepository, mirror: Mirror, tmp_path: Path) -> None:
    first = pushed(work, {f"d{n % 30}/f{n}": f"{n}" for n in range(3000)})
    second = pushed(work, {f"d{n % 30}/f{n}": f"new {n}" for n in range(40)})
    mirror.fetch("refs/heads/main", second)
    mirror.checkout(first, tmp_path / "one")
    out = mirror.checkout(second, tmp_path / "two")
    assert out.files == 3000
    found = tree(tmp_path / "two")
    assert all(found[f"d{n % 30}/f{n}"] == (f"new {n}" if n < 40 else f"{n}").encode() for n in range(3000))


def test_a_clone_never_writes_through_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "source").write_text("x")
    (tmp_path / "target").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        clone(tmp_path / "source", tmp_path / "target", 0o644)
    assert not (tmp_path / "elsewhere").exists()
