"""Keep a bare mirror of each repository; fetch and check out exactly the commits that are asked for.

A mirror is a folder that only we write. It is made again when it is missing or damaged, holds what was
fetched under private refs (so that the next fetch transfers only what is new), and never holds a work tree
that a job could touch: checkouts are copies (see `checkout`). It is read by its `commits`. Thread-safe;
two processes may share a mirror.
"""

import fcntl
import hashlib
import logging
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeVar

from pushtrain.core.errors import Cancelled, CredentialError, GitError, NotFound, PushtrainError
from pushtrain.core.owner.outward import Outward
from pushtrain.core.settings import Repository
from pushtrain.plumbing.git.checkout import Checkout, PristineTree
from pushtrain.plumbing.git.command import FETCH, GUARDED, LONGEST, Git
from pushtrain.plumbing.git.commits import Commits
from pushtrain.plumbing.git.complaint import BrokenRepository, Unanswered
from pushtrain.plumbing.git.locks import wait_for_lock
from pushtrain.plumbing.git.remotes import check_commit, check_ref, validate_remote
from pushtrain.plumbing.git.seen import Seen
from pushtrain.plumbing.git.survey import Bounds
from pushtrain.plumbing.programs import proc
from pushtrain.ports import Stop

if TYPE_CHECKING:
    from pushtrain.plumbing.data.ledger import Ledger

T = TypeVar("T")

_log = logging.getLogger(__name__)

_ATTRIBUTES: Final = b"* -filter\n"
"""No configured filter ever runs; LFS pointers are resolved by an explicit call."""
_MANY_PACKS: Final = 60
"""Each fetch leaves one pack; past this many they are joined."""
_MOMENT: Final = 0.5
"""Seconds in which git puts a finished pack in its place."""
_RENEWALS: Final = 3
"""Times that a fetch begins again because the mirror is another one."""
_PROBE: Final = 30.0
"""Seconds within which a host that can be reached answers."""
_BOUNDS: Final = Bounds()
_OUTWARD: Final = Outward()


class Mirror:
    """One repository's bare mirror.

    Args:
        folder: Where mirrors live (`StateFolder.repositories`); this one is `KEY.git` there, `/` as `+`.
        remote: The repository's key and remote.
        token: For https remotes; empty: the user's own credential helpers or SSH.
        bounds: How much is taken of it.
        lent: Whether a submodule's repository, by its key, may be asked for with the owner's credentials.
        outward: Which addresses a stranger may reach.
        stranger: Whether the remote is asked without anything of the owner's; git's settings for that.
        toll: Counts what fetches and Git LFS bring for runs; None: it is not for a run.
    """

    def __init__(
        self,
        folder: Path,
        remote: Repository,
        *,
        token: str = "",
        bounds: Bounds = _BOUNDS,
        lent: Callable[[str], bool] = lambda _: False,
        outward: Outward = _OUTWARD,
        stranger: tuple[str, ...] | None = None,
        toll: "Ledger | None" = None,
    ) -> None:
        self.remote = Repository(key=remote.key, remote=validate_remote(remote.remote))
        name = mirror_name(remote.key)
        if stranger is not None:
            name = f"{name}+public"  # what a stranger gets need not be what the owner gets
        self.home = folder
        self.token = token
        self.bounds = bounds
        self.folder = folder / f"{name}.git"
        self.lent = lent
        self.outward = outward
        self.toll = toll
        self.git = Git(self.folder, self.remote.remote, token, stranger is not None, stranger or ())
        self.commits = Commits(self.folder, self.git, remote.key)
        """What is read of it."""
        self.pristine = PristineTree(folder / f"{name}.tree", self.git, bounds, outward, toll)
        self._lock = folder / f"{name}.lock"
        self._use = folder / f"{name}.use"
        self._seen = Seen(folder / f"{name}.seen")
        self._default = ""

    def tolled(self, toll: "Ledger") -> Self:
        """The same mirror, for runs: what it brings is counted."""
        twin = copy(self)
        twin.toll = toll
        twin.pristine = PristineTree(self.pristine.folder, self.git, self.bounds, self.outward, toll)
        return twin

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

    def answers(self, *, stop: Stop | None = None) -> bool:
        """Whether the remote's host can be reached at the moment; a refusal is an answer, too."""
        git = Git(None, self.remote.remote, self.token)
        try:
            git.run("ls-remote", "--", self.remote.remote, "HEAD", stop=stop, timeout=_PROBE, doing="ask")
        except Unanswered:
            return False
        except Cancelled:
            raise
        except PushtrainError:
            return True
        return True

    def let_in(self) -> bool:
        """Whether the remote has given us something before."""
        return any((self.folder / "objects" / "pack").glob("*.pack"))

    def shuts_out(self, *, stop: Stop | None = None) -> bool:
        """Whether the remote has let us in before, and does not at the moment: a token has ended, perhaps.

        Hosts say `not found` of what one may not see.
        """
        if not self.let_in():
            return False
        try:
            self.ls_remote(stop=stop)
        except (CredentialError, NotFound):
            return True
        except Cancelled:
            raise
        except PushtrainError:
            return False
        return False

    def ref_with(self, commit: str, *, stop: Stop | None = None) -> str:
        """A branch or tag of the remote that holds a commit, the default branch first; empty: none does.

        Raises:
            GitError: The remote did not answer, or refused.
        """
        self.ensure(stop=stop)
        for kind in ("heads", "tags"):
            self.fetch_into(f"refs/{kind}/*", f"refs/fetched/all/{kind}/*", stop=stop)
        if not self.commits.has(commit):
            return ""
        names = self.git.run(
            "for-each-ref", "--contains", commit, "--format=%(refname)", "refs/fetched/all/"
        ).text
        found = [name.replace("refs/fetched/all/", "refs/", 1) for name in names.splitlines()]
        default = self.default_branch(stop=stop)
        return default if default in found else next(iter(found), "")

    def default_branch(self, *, stop: Stop | None = None) -> str:
        """The ref that the remote's HEAD names, as of the last `ls_remote`; asks once if there was none."""
        if not self._default:
            self.ls_remote(stop=stop)
        return self._default or "refs/heads/main"

    def fetch(self, ref: str, commit: str, *, stop: Stop | None = None) -> bool:
        """Have this commit of this ref, with its history; whether anything had to be fetched.

        The ref is what is fetched, and the commit must be its tip or in its history: a host also gives out,
        under this repository's name, the commits of everybody's forks. One that was seen on the ref before
        counts, although the branch was pushed over or deleted since.

        Raises:
            NotFound: The remote's ref does not hold it, or no longer; or there is no such ref.
            UnsafeContent: What came is dangerous, or larger than the bounds.
            GitError: It could not be fetched.
        """
        check_commit(commit)
        check_ref(ref)
        return self._whole(lambda: self._fetch_of(ref, commit, stop), stop)

    def fetch_commit(self, commit: str, *, stop: Stop | None = None) -> bool:
        """Have this commit, whatever ref it is on; whether it had to be fetched.

        Asks for exactly the commit, and for every branch only when the host does not give single commits out.

        Raises:
            NotFound: The remote does not have it, or no longer.
            UnsafeContent: What came is dangerous, or larger than the bounds.
            GitError: It could not be fetched.
        """
        check_commit(commit)
        return self._whole(lambda: self._fetch_exactly(commit, stop), stop)

    def _whole(self, fetch: Callable[[], bool], stop: Stop | None) -> bool:
        """Fetch; once more, into a new mirror, where this one turns out to be damaged.

        Whoever uses it while another thread makes it anew fails, too, and begins again with the new one. A
        mirror that was made since is not set aside: what is wrong with it came from the host.
        """
        with self.using():
            first = self.birth()
            for _ in range(_RENEWALS):
                born = self.birth()
                try:
                    return fetch()
                except GitError as error:
                    if not self.renewed(born, error, stop=stop, old=born == first):
                        raise
            return fetch()

    def read(self, ref: str, commit: str, look: Callable[[], T], *, stop: Stop | None = None) -> T:
        """Have this commit, as `fetch` does, and look at it; once more where the mirror proves damaged then.

        Raises:
            NotFound, UnsafeContent, GitError: As `fetch`, and what `look` raises.
        """
        first = self.birth()
        self.fetch(ref, commit, stop=stop)
        born = self.birth()
        try:
            return look()
        except GitError as error:
            if not self.renewed(born, error, stop=stop, old=born == first):
                raise
        self.fetch(ref, commit, stop=stop)
        return look()

    def renewed(self, born: str, error: GitError, *, old: bool, stop: Stop | None = None) -> bool:
        """Whether another mirror is in the place of the one in which something failed, or may come there.

        A damaged one is set aside for it.

        Args:
            born: The `birth` of the one in which it failed.
            error: How.
            old: Whether that one was there before the work began, so that its damage may be ours.
            stop: Called now and then.
        """
        if born and self.birth() != born:
            return True
        if not (born and old and isinstance(error, BrokenRepository)):
            return False
        with self._locked(stop):
            if self.birth() == born:
                _log.warning("The mirror of %s is damaged and made anew: %s", self.remote.key, error.message)
                self._set_aside()
                self.pristine.forget(stop=stop)
        return True

    def _fetch_of(self, ref: str, commit: str, stop: Stop | None) -> bool:
        short = hashlib.sha256(ref.encode()).hexdigest()[:16]
        if self._holds(short, commit):
            return False
        with self._locked(stop) as waited:
            self._ensure(_format(commit))
            if waited and self._holds(short, commit):
                return False
            if self.toll is not None:
                self.toll.demand_day()
            try:
                self.fetch_into(ref, f"refs/fetched/{short}", stop=stop)
            except NotFound as error:
                if not _unadvertised(str(error)):
                    raise
            if not self._holds(short, commit) and not self._had_once(short, commit, stop):
                raise NotFound(
                    f"{self.remote.key} has no commit {commit[:12]} on {ref} (any more).",
                    mend="It was pushed over perhaps, or only a fork has it: push again.",
                )
            self.tidy(stop=stop)
        return True

    def _holds(self, short: str, commit: str) -> bool:
        """Whether the mirror has the commit, and it is of the ref: its tip, in its history, or seen there."""
        if not self.folder.is_dir():
            return False
        asked = f"{commit}^{{commit}}\nrefs/fetched/{short}^{{commit}}\n".encode()
        out = self.git.run("cat-file", "--batch-check=%(objectname)", input=asked).text.split("\n")
        there, tip = (line if _is_id(line) else "" for line in out)
        if not there:
            return False
        below = self.commits.is_ancestor
        known = tip == commit or self._seen.has(short, commit) or (tip and below(commit, tip))
        if known:
            self._seen.add(short, commit)
        return bool(known)

    def _had_once(self, short: str, commit: str, stop: Stop | None) -> bool:
        """Have a commit that was seen on the ref when an earlier mirror, since lost, held it."""
        if not self._seen.has(short, commit):
            return False
        with suppress(NotFound, GitError):
            self.fetch_into(commit, f"refs/fetched/{short}.{commit[:16]}", stop=stop)
        return self.commits.has(commit)

    def _fetch_exactly(self, commit: str, stop: Stop | None) -> bool:
        if self.commits.has(commit):
            return False
        with self._locked(stop):
            self._ensure(_format(commit))
            if self.commits.has(commit):
                return False
            if self.toll is not None:
                self.toll.demand_day()
            try:
                self.fetch_into(commit, "refs/fetched/one", stop=stop)
            except (GitError, NotFound) as error:
                if not _unadvertised(str(error)):
                    raise
                self.fetch_into("refs/heads/*", "refs/fetched/all/heads/*", stop=stop)
                if not self.commits.has(commit):
                    raise NotFound(
                        f"{self.remote.key} has no commit {commit[:12]} (any more).",
                        mend="It was pushed over perhaps; push again.",
                    ) from error
            self.tidy(stop=stop)
        return True

    def fetch_into(
        self, source: str, ref: str, *, stop: Stop | None = None, timeout: float = LONGEST
    ) -> None:
        """Fetch a ref or a commit under a private ref of the mirror, in so many seconds.

        Raises:
            UnsafeContent: What came is dangerous, or larger than the bounds; none of it stays.
            GitError: It could not be fetched.
        """
        before = self._packed()
        try:
            with self.using():
                self.git.run(
                    "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--",
                    self.remote.remote, f"+{source}:{ref}",
                    config=FETCH, stop=stop, timeout=timeout, doing=f"fetch from {self.remote.key}",
                    caps={**GUARDED, resource.RLIMIT_FSIZE: self.bounds.size},
                )  # fmt: skip
        except PushtrainError:
            self._count_since(before)
            self._drop_halves()
            raise
        self._count_since(before)

    def _count_since(self, before: int) -> None:
        """Count what a fetch has brought, of use or not: it comes as one pack."""
        if self.toll is not None:
            self.toll.add(max(0, self._packed() - before))
            self.toll.settle()

    def _packed(self) -> int:
        """Bytes of all packs, unfinished ones among them."""
        if self.toll is None:
            return 0
        found = 0
        with suppress(FileNotFoundError), os.scandir(self.folder / "objects" / "pack") as packs:
            for pack in packs:
                with suppress(FileNotFoundError):  # it was repacked meanwhile
                    found += pack.stat().st_size
        return found

    def _drop_halves(self) -> None:
        """Remove what a failed fetch has left of its pack, unless somebody still writes to it.

        Other programs write here, too, and each has closed its pack for a moment before it renames it.
        """
        halves = self._halves()
        if halves:
            time.sleep(_MOMENT)  # another git may be about to rename it, and tells nobody
            for half in halves & self._halves():
                half.unlink(missing_ok=True)

    def _halves(self) -> set[Path]:
        """Unfinished packs that nobody has open."""
        halves = set((self.folder / "objects" / "pack").glob("tmp_*"))
        written = proc.open_files() if halves else set()
        return {half for half in halves if str(half.resolve()) not in written}

    # --- our side ---

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
        with self.using():
            result = self.pristine.copy(check_commit(commit), into, lfs=lfs, stop=stop)
            if submodules:
                from pushtrain.plumbing.git.submodules import place  # lazy: most runs have none

                result += place(self, commit, into, lfs=lfs, stop=stop, there=result)
        return result

    # --- keeping it whole ---

    def birth(self) -> str:
        """Tells this mirror from an earlier one that lay in its place; empty: there is none."""
        try:
            found = (self.folder / "info" / "attributes").stat()
        except OSError:
            return ""
        return f"{found.st_ino}.{found.st_mtime_ns}"

    @contextmanager
    def using(self) -> Iterator[None]:
        """Keep the mirror from being removed while the block runs, and note that it was of use."""
        self.home.mkdir(parents=True, exist_ok=True)
        with self._use.open("ab") as handle:
            os.utime(handle.fileno())
            fcntl.flock(handle, fcntl.LOCK_SH)
            yield

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

    def tidy(self, *, stop: Stop | None = None) -> None:
        """Join packs when there are many: each fetch and each publication leaves one."""
        packs = sum(path.suffix == ".pack" for path in (self.folder / "objects" / "pack").iterdir())
        if packs > _MANY_PACKS:
            self.git.run("repack", "--quiet", "--geometric=2", "-d", stop=stop, doing="join packs")

    @contextmanager
    def _locked(self, stop: Stop | None) -> Iterator[bool]:
        """Hold this mirror's lock against other threads and processes; whether it had to be waited for."""
        self.home.mkdir(parents=True, exist_ok=True)
        with self._lock.open("ab") as handle:
            yield wait_for_lock(handle.fileno(), stop)


def mirror_name(key: str) -> str:
    """What the mirror of a repository's key is called, without an ending."""
    name = key.replace("/", "+")
    if len(name) > 180:  # noqa: PLR2004  a file name holds 255 bytes, and we add endings
        name = f"{name[:140]}+{hashlib.sha256(name.encode()).hexdigest()[:32]}"
    return name


def _format(commit: str) -> str:
    return "sha256" if len(commit) == 64 else "sha1"  # noqa: PLR2004  hex digits


def _is_id(line: str) -> bool:
    return len(line) in {40, 64} and " " not in line


def _unadvertised(text: str) -> bool:
    lower = text.lower()
    return any(words in lower for words in ("not our ref", "unadvertised object", "couldn't find remote ref"))
