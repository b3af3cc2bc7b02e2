"""Keep a bare mirror of each repository; fetch, read and check out exactly the commits that are asked for.

A mirror is a folder that only we write. It is made again when it is missing or damaged, holds what was
fetched under private refs (so that the next fetch transfers only what is new), and never holds a work tree
that a job could touch: checkouts are copies (see `checkout`). Every commit that is read was named in full.
Thread-safe; two processes may share a mirror.
"""

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pushtrain.core.errors import GitError, NotFound
from pushtrain.core.model import NO_COMMIT
from pushtrain.core.settings import Repository
from pushtrain.plumbing.checkout import Checkout, PristineTree
from pushtrain.plumbing.complaint import BrokenRepository
from pushtrain.plumbing.gitcommand import Git
from pushtrain.plumbing.remotes import check_commit, check_ref, is_local, key_of, masked, validate_remote
from pushtrain.ports import Stop

__all__ = [
    "Checkout",
    "CommitInfo",
    "Git",
    "Mirror",
    "is_local",
    "key_of",
    "masked",
    "parse_batch",
    "validate_remote",
]

_ATTRIBUTES: Final = b"* -filter\n"
"""No configured filter ever runs; LFS pointers are resolved by an explicit call."""
_MANY_PACKS: Final = 60
"""Each fetch leaves one pack; past this many they are joined."""


@dataclass(frozen=True, slots=True)
class CommitInfo:
    """A commit's own words."""

    commit: str
    message: str
    author: str
    """The name, without the address."""
    authored_at: int
    parents: tuple[str, ...]

    @property
    def subject(self) -> str:
        """The message's first line."""
        return self.message.strip().partition("\n")[0]


class Mirror:
    """One repository's bare mirror.

    Args:
        folder: Where mirrors live (`StateFolder.repositories`); this one is `KEY.git` there, `/` as `+`.
        remote: The repository's key and remote.
        token: For https remotes; empty: the user's own credential helpers or SSH.
    """

    def __init__(self, folder: Path, remote: Repository, *, token: str = "") -> None:
        self.remote = Repository(key=remote.key, remote=validate_remote(remote.remote))
        name = remote.key.replace("/", "+")
        if len(name) > 180:  # noqa: PLR2004  a file name holds 255 bytes, and we add endings
            name = f"{name[:140]}+{hashlib.sha256(name.encode()).hexdigest()[:32]}"
        self.home = folder
        self.token = token
        self.folder = folder / f"{name}.git"
        self.git = Git(self.folder, self.remote.remote, token)
        self.pristine = PristineTree(folder / f"{name}.tree", self.git)
        self._lock = folder / f"{name}.lock"
        self._default = ""

    # --- the remote's side ---

    def ls_remote(self, *, stop: Stop | None = None) -> dict[str, str]:
        """The remote's branches and tags: full ref → commit (for an annotated tag the commit it names).

        Raises:
            GitError: The remote did not answer, or refused.
        """
        git = Git(None, self.remote.remote, self.token)
        out = git.run(
            "ls-remote", "--symref", "--", self.remote.remote, "HEAD", "refs/heads/*", "refs/tags/*",
            stop=stop, doing=f"list the branches of {self.remote.key}",
        ).text  # fmt: skip
        refs: dict[str, str] = {}
        for line in out.splitlines():
            first, _, ref = line.partition("\t")
            if first.startswith("ref: ") and ref == "HEAD":
                self._default = first.removeprefix("ref: ")
            elif ref.startswith("refs/"):
                refs[ref.removesuffix("^{}")] = first
        return refs

    def default_branch(self, *, stop: Stop | None = None) -> str:
        """The ref that the remote's HEAD names, as of the last `ls_remote`; asks once if there was none."""
        if not self._default:
            self.ls_remote(stop=stop)
        return self._default or "refs/heads/main"

    def fetch(self, ref: str, commit: str, *, stop: Stop | None = None) -> bool:
        """Have this commit, with its history; whether it had to be fetched.

        Asks for exactly the commit, and for the ref only when the host does not give single commits out.

        Raises:
            NotFound: The remote does not have it, or no longer.
            GitError: It could not be fetched.
        """
        check_commit(commit)
        check_ref(ref)
        try:
            return self._fetch_missing(ref, commit, stop)
        except BrokenRepository:
            with self._locked(stop):
                self._set_aside()
            return self._fetch_missing(ref, commit, stop)

    def _fetch_missing(self, ref: str, commit: str, stop: Stop | None) -> bool:
        if self.folder.is_dir() and self.has(commit):
            return False
        with self._locked(stop):
            self._ensure("sha256" if len(commit) == 64 else "sha1")  # noqa: PLR2004  hex digits
            if self.has(commit):
                return False
            kept = f"refs/fetched/{hashlib.sha256(ref.encode()).hexdigest()[:16]}"
            try:
                self.fetch_into(commit, kept, stop=stop)
            except (GitError, NotFound) as error:
                if not _unadvertised(str(error)):
                    raise
                with suppress(NotFound):
                    self.fetch_into(ref, kept, stop=stop)
                if not self.has(commit):
                    raise NotFound(
                        f"{self.remote.key} has no commit {commit[:12]} (any more).",
                        mend="It was pushed over perhaps; push again.",
                    ) from error
            self.tidy(stop=stop)
        return True

    def fetch_into(
        self, source: str, ref: str, *, stop: Stop | None = None, timeout: float | None = None
    ) -> None:
        """Fetch a ref or a commit under a private ref of the mirror, in so many seconds."""
        self.git.run(
            "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--",
            self.remote.remote, f"+{source}:{ref}",
            config=("transfer.unpackLimit=1", "fetch.writeCommitGraph=false"), stop=stop, timeout=timeout,
            doing=f"fetch from {self.remote.key}",
        )  # fmt: skip

    # --- our side ---

    def has(self, commit: str) -> bool:
        """Whether the mirror holds this commit. Packs arrive whole, so a commit's files are there with it."""
        name = f"{check_commit(commit)}^{{commit}}"
        return self.folder.is_dir() and self.git.run("cat-file", "-e", name, ok=(0, 1, 128)).code == 0

    def read(self, commit: str, paths: Sequence[str] = ()) -> tuple[CommitInfo, dict[str, bytes | None]]:
        """The commit's own words and some of its files (None: there is no such file), by one git process.

        Raises:
            NotFound: The mirror does not hold the commit.
        """
        names = [path for path in paths if "\n" not in path]
        asked = [f"{check_commit(commit)}^{{commit}}", *(f"{commit}:{path}" for path in names)]
        head, *files = self.objects(asked)
        if head is None:
            raise NotFound(f"The mirror of {self.remote.key} holds no commit {commit[:12]}.")
        blobs = [None if found is None or found[0] != "blob" else found[1] for found in files]
        return _parse_commit(commit, head[1]), {
            **dict.fromkeys(paths),
            **dict(zip(names, blobs, strict=True)),
        }

    def objects(self, names: Sequence[str]) -> list[tuple[str, bytes] | None]:
        """Several objects as (kind, content), None for what is missing, by one git process."""
        if not self.folder.is_dir():
            return [None] * len(names)
        out = self.git.run("cat-file", "--batch", input="".join(f"{name}\n" for name in names).encode()).out
        return list(parse_batch(out, len(names)))

    def show(self, commit: str, path: str) -> bytes | None:
        """One file at one commit; None: there is none."""
        return self.read(commit, [path])[1][path]

    def message(self, commit: str) -> str:
        """The commit's message."""
        return self.read(commit)[0].message

    def changed(self, before: str, after: str) -> list[str] | None:
        """The paths that differ between two commits; None when `before` is not known here."""
        if set(before) == {"0"} or before == NO_COMMIT or not self.has(before):
            return None
        args = (
            "diff-tree",
            "-r",
            "-z",
            "--name-only",
            "--no-renames",
            check_commit(before),
            check_commit(after),
        )
        out = self.git.run(*args, doing="compare two commits").out
        return [os.fsdecode(path) for path in out.split(b"\0") if path]

    def is_ancestor(self, older: str, newer: str) -> bool:
        """Whether `older` is in the history of `newer` (or the same); False when one is not known here."""
        if not self.folder.is_dir():
            return False
        args = ("merge-base", "--is-ancestor", check_commit(older), check_commit(newer))
        return self.git.run(*args, ok=(0, 1, 128)).code == 0

    def list(self, commit: str, below: str = "") -> list[str]:
        """The paths of all files at a commit, or of those below a folder."""
        args = ("ls-tree", "-r", "-z", "--name-only", "--full-tree", check_commit(commit), "--", below)
        out = self.git.run(*(args if below else args[:-2])).out
        return [os.fsdecode(path) for path in out.split(b"\0") if path]

    def checkout(
        self,
        commit: str,
        into: Path,
        *,
        submodules: bool = False,
        lfs: bool = True,
        stop: Stop | None = None,
    ) -> Checkout:
        """Put the files of exactly this commit into a folder, as copies that share nothing with us.

        Args:
            commit: Must have been fetched.
            into: An empty folder, or one to be made; never gains a `.git`.
            submodules: Whether to fetch and place submodules, each at its recorded commit.
            lfs: Whether LFS pointers must be replaced by their content.
            stop: Called now and then; what it raises ends the work.

        Raises:
            GitError: It could not be checked out; with `lfs`, also when pointers cannot be resolved.
            StorageError: The disk is full or cannot be written.
        """
        result = self.pristine.copy(check_commit(commit), into, lfs=lfs, stop=stop)
        if submodules:
            from pushtrain.plumbing.submodules import place  # lazy: most runs have none

            result += place(self, commit, into, lfs=lfs, stop=stop)
        return result

    # --- keeping it whole ---

    def ensure(self, *, stop: Stop | None = None) -> None:
        """Make the mirror's folder when it is missing."""
        if not self.folder.is_dir():
            with self._locked(stop):
                self._ensure("sha1")

    def _ensure(self, object_format: str) -> None:
        if self.folder.is_dir():
            return
        self.home.mkdir(parents=True, exist_ok=True)
        fresh = self.folder.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        Git(None).run(
            "init", "--quiet", "--bare", "--template=", f"--object-format={object_format}", "--", fresh
        )
        (fresh / "info").mkdir(exist_ok=True)
        (fresh / "info" / "attributes").write_bytes(_ATTRIBUTES)
        fresh.rename(self.folder)

    def _set_aside(self) -> None:
        """Put a damaged mirror out of the way; it is fetched again."""
        grave = self.folder.with_suffix(f".broken-{time.time_ns()}")
        if self.folder.is_dir():
            self.folder.rename(grave)
        shutil.rmtree(grave, ignore_errors=True)
        self.pristine.forget()

    def tidy(self, *, stop: Stop | None = None) -> None:
        """Join packs when there are many: each fetch and each publication leaves one."""
        packs = sum(path.suffix == ".pack" for path in (self.folder / "objects" / "pack").iterdir())
        if packs > _MANY_PACKS:
            self.git.run("repack", "--quiet", "--geometric=2", "-d", stop=stop, doing="join packs")

    @contextmanager
    def _locked(self, stop: Stop | None) -> Iterator[None]:
        """Hold this mirror's lock against other threads and processes."""
        self.home.mkdir(parents=True, exist_ok=True)
        with self._lock.open("ab") as handle:
            wait_for_lock(handle.fileno(), stop)
            yield


def wait_for_lock(descriptor: int, stop: Stop | None) -> None:
    """Take an exclusive flock; while it is held elsewhere, `stop` is asked ten times a second."""
    if stop is None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stop()
            time.sleep(0.05)
        else:
            return


def _unadvertised(text: str) -> bool:
    lower = text.lower()
    return any(words in lower for words in ("not our ref", "unadvertised object", "couldn't find remote ref"))


def parse_batch(out: bytes, count: int) -> Iterator[tuple[str, bytes] | None]:
    """The answers of `git cat-file --batch`: kind and content."""
    return (None if found is None else found[1:] for found in parse_heads(out, count))


def parse_heads(out: bytes, count: int) -> Iterator[tuple[str, str, bytes] | None]:
    """The answers of `git cat-file --batch`: id, kind and content."""
    at = 0
    for _ in range(count):
        end = out.index(b"\n", at)
        words = out[at:end].rsplit(b" ", 2)
        at = end + 1
        if len(words) == 3 and words[2].isdigit():  # noqa: PLR2004  OID KIND SIZE
            size = int(words[2])
            yield words[0].decode(), words[1].decode(), out[at : at + size]
            at += size + 1
        else:
            yield None


def _parse_commit(commit: str, raw: bytes) -> CommitInfo:
    """A commit object's header and message."""
    head, _, message = raw.decode("utf-8", "replace").partition("\n\n")
    fields: Mapping[str, str] = dict(line.partition(" ")[::2] for line in reversed(head.splitlines()))
    name, _, rest = fields.get("author", "").rpartition(" <")
    when = rest.rpartition("> ")[2].split(" ")[0]
    parents = tuple(line.split()[1] for line in head.splitlines() if line.startswith("parent "))
    return CommitInfo(commit, message, name, int(when) if when.lstrip("-").isdigit() else 0, parents)
