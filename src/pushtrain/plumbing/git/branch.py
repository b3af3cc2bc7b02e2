"""Grow a remote branch by commits that are made without a work tree, and never lose anybody's.

Commits are written by one `git fast-import` into the private mirror; no index, no hook, no filter takes part.
A push never overwrites: when the branch has moved meanwhile, or is gone, it is rejected, and the caller
fetches, looks again, and builds on what is there. Binary batches are stored uncompressed: compressing them
would only cost time.
"""

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pushtrain.core.errors import GitError, NotFound
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.git.remotes import check_ref
from pushtrain.ports import Stop

PATIENCE: Final = 1800.0
"""Seconds that one fetch or push of a results branch may take; a push holds some 40 MB at most."""
_LARGE: Final = 1024 * 1024
_SAMPLE: Final = 16 * 1024
_NO_DELTA: Final = "core.bigFileThreshold=64k"
"""Larger files are not searched for likeness: that took half of the time of 20 MB, for nothing."""


@dataclass(frozen=True, slots=True)
class NewCommit:
    """A commit to be made: what it adds or replaces on top of what is there."""

    message: str
    files: Mapping[str, bytes]
    tree: str = ""
    """What else is in it, though it stands on nothing: the id of a tree that the mirror has."""


class Branch:
    """One branch of a mirror's remote.

    Args:
        mirror: Its private repository is where commits are made.
        ref: Full name, `refs/heads/…`; need not exist on the remote yet.
        lane: Tells apart those who grow the same branch in the same mirror at the same time.
    """

    def __init__(self, mirror: Mirror, ref: str, *, lane: str = "") -> None:
        self.mirror = mirror
        self.ref = check_ref(ref)
        self._private = f"refs/results/{hashlib.sha256(f'{ref}{lane}'.encode()).hexdigest()[:16]}"

    def fetch(self, *, stop: Stop | None = None) -> str:
        """The remote branch's tip, fetched; empty when there is no such branch.

        Raises:
            GitError: The remote did not answer, or refused.
        """
        self.mirror.ensure(stop=stop)
        try:
            self.mirror.fetch_into(self.ref, self._private, stop=stop, timeout=PATIENCE)
        except NotFound as error:
            if "couldn't find remote ref" not in str(error):
                raise
            return ""
        return self.mirror.git.run("rev-parse", "--verify", self._private).text

    def grow(
        self, tip: str, commits: Sequence[NewCommit], *, author: str, when: int, stop: Stop | None = None
    ) -> list[str]:
        """Write commits, one on top of the other, into the mirror; their ids. Nothing is pushed.

        Args:
            tip: What the first one stands on; empty: nothing (an orphan).
            commits: At least one.
            author: `NAME <ADDRESS>`, also the committer.
            when: Seconds since the epoch.
            stop: Called now and then; what it raises ends the work.
        """
        stream = bytearray()
        for number, commit in enumerate(commits, start=1):
            message = commit.message.encode()
            stream += b"commit %s\nmark :%d\ncommitter %s %d +0000\n" % (
                f"{self._private}.new".encode(),
                number,
                author.encode(),
                when,
            )
            stream += b"data %d\n%s\n" % (len(message), message)
            if number > 1:
                stream += b"from :%d\n" % (number - 1)
            elif tip:
                stream += b"from %s\n" % tip.encode()
            if commit.tree:
                stream += b'M 040000 %s ""\n' % commit.tree.encode()
            for path, content in commit.files.items():
                stream += b"M 100644 inline %s\ndata %d\n" % (_quoted(path), len(content))
                stream += content
                stream += b"\n"
            stream += b"\nget-mark :%d\n" % number
        stream += b"done\n"
        if not tip:
            stream = bytearray(b"reset %s.new\n\n" % self._private.encode()) + stream
        out = self.mirror.git.run(
            "fast-import", "--quiet", "--done", "--force", "--date-format=raw",
            input=bytes(stream), stop=stop, doing="write the results' commit",
            config=("fastimport.unpackLimit=0", _NO_DELTA, *_compression(commits)),
        ).text  # fmt: skip
        ids = out.split()
        if len(ids) != len(commits):
            raise GitError(f"git fast-import wrote {len(ids)} of {len(commits)} commits.")
        return ids

    def push(self, commit: str, *, onto: str = "", stop: Stop | None = None) -> None:
        """Make a commit the remote branch's tip, if it stands on the present one.

        Args:
            commit: What `grow` made.
            onto: The tip that it was made on top of. The branch must still be there: were it deleted
                meanwhile, an ordinary push would bring its whole history back. The lease says so, and it
                forces nothing, because the commit stands on that very tip; only one that stands on nothing
                takes that tip's place.
            stop: Called now and then; what it raises ends the work.

        Raises:
            PushRejected: The branch has moved; fetch and build again.
            GitError: The remote did not answer, or refused.
        """
        lease = [f"--force-with-lease={self.ref}:{onto}"] if onto else []
        self.mirror.git.run(
            "push", "--quiet", "--no-verify", *lease, "--", self.mirror.remote.remote, f"{commit}:{self.ref}",
            stop=stop, timeout=PATIENCE,
            config=("core.compression=1", _NO_DELTA),
            doing=f"push to {self.mirror.remote.key}",
        )  # fmt: skip

    def rehearse(self, *, stop: Stop | None = None) -> None:
        """Ask the remote whether we may push to it: a push that ends before anything is sent.

        Args:
            stop: Called now and then; what it raises ends the work.

        Raises:
            GitError: The remote did not answer, or refused.
        """
        self.mirror.ensure(stop=stop)
        nothing = self.grow(
            "", [NewCommit("Nothing", {})], author="pushtrain <noreply@pushtrain.invalid>", when=0
        )
        self.mirror.git.run(
            "push", "--quiet", "--no-verify", "--dry-run", "--", self.mirror.remote.remote,
            f"{nothing[0]}:{self.ref}", stop=stop, doing=f"push to {self.mirror.remote.key}",
        )  # fmt: skip

    def added_by(self, tip: str, path: str) -> str:
        """The commit in the branch's history that last touched a path."""
        return self.mirror.git.run("log", "-1", "--format=%H", tip, "--", path).text


def _quoted(path: str) -> bytes:
    """A path as fast-import reads it, quoted like a C string."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'.encode()


def _compression(commits: Sequence[NewCommit]) -> tuple[str, ...]:
    """No compression for a large batch that would not shrink; fast compression else."""
    contents = [content for commit in commits for content in commit.files.values()]
    if sum(map(len, contents)) > _LARGE:
        large = sorted(contents, key=len)[-8:]
        samples = [content[len(content) // 2 :][:_SAMPLE] for content in large]
        if sum(len(zlib.compress(sample, 1)) for sample in samples) > 0.85 * sum(map(len, samples)):
            return ("core.compression=0", "pack.compression=0")
    return ("core.compression=1", "pack.compression=1")
