"""Read and write one file on a branch of a remote, as many writers do at once; no work tree, nothing lost.

- On a branch that is pushtrain's own, the file's history is of no use: each write is one commit without a
  parent that takes the former one's place (`--force-with-lease`), so the branch never grows. The other files
  on it (the roster, the sealed secrets beside it) are taken over as they are.
- On a branch that people use too, each write is an ordinary commit on its tip, with a plain push.
- Whoever was overtaken fetches, makes the change again on what is there now, and tries again, after a pause
  of random length. A change is a function of the text and must touch only what belongs to the writer.
"""

import hashlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pushtrain.core.errors import GitError, NotFound, PushRejected
from pushtrain.core.wire.place import Place
from pushtrain.plumbing.git.branch import Branch, NewCommit
from pushtrain.plumbing.git.commits import parse_heads
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.ports import Stop

_TRIES: Final = 200
_MOST_TURNS: Final = 8.0
"""A pause is at most as long as so many tries: longer ones would starve whoever has lost often already."""
_LONGEST_PAUSE: Final = 10.0
_FETCHES: Final = 8
_SOON: Final = 0.05


@dataclass(frozen=True, slots=True)
class Look:
    """What is on the branch."""

    tip: str
    """Empty: there is no such branch."""
    text: str
    """Empty: there is no such file. Bytes that are not UTF-8 are lone surrogates."""
    tree: str = field(default="", compare=False)
    """What else is there: the id of the commit's tree."""


@dataclass(frozen=True, slots=True)
class Written:
    """A change is on the remote."""

    commit: str
    """Empty: there was nothing to change."""
    text: str
    tries: int


class RosterFile:
    """One place, through one mirror.

    At most one thread of one process writes the same file through the same mirror folder.

    Args:
        mirror: Of the place's repository.
        place: Branch and path.
        author: `NAME <ADDRESS>` of the commits.
        jitter: A number from 0 to 1; spreads the tries of many writers.
        pause: Waits for some seconds.
    """

    def __init__(
        self,
        mirror: Mirror,
        place: Place,
        *,
        author: str = "pushtrain <pushtrain@localhost>",
        jitter: Callable[[], float] = random.random,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.place = place
        self.mirror = mirror
        self._author = author
        self._jitter = jitter
        self._pause = pause
        lane = f":{place.path}"
        self._branch = Branch(mirror, place.ref, lane=lane)
        self._private = f"refs/roster/{hashlib.sha256(f'{place.ref}{lane}'.encode()).hexdigest()[:16]}"

    def read_at(self, tip: str, *, stop: Stop | None = None) -> str:
        """The file at a commit that the branch is or was at; empty when there is none.

        Raises:
            NotFound: The branch has moved on, and the remote does not give the commit out any more.
            GitError: The remote did not answer, or refused.
        """

        def look() -> str:
            return _text(self.mirror.commits.show(tip, self.place.path))

        return self.mirror.read(self.place.ref, tip, look, stop=stop)

    def read(self, *, stop: Stop | None = None) -> Look:
        """Fetch the branch and read the file.

        Raises:
            GitError: The remote did not answer, or refused.
        """
        born = self.mirror.birth()
        try:
            return self._look(stop)
        except GitError as error:
            if not self.mirror.renewed(born, error, stop=stop, old=True):
                raise
        return self._look(stop)

    def _look(self, stop: Stop | None) -> Look:
        self.mirror.ensure(stop=stop)
        try:
            self._fetch(stop)
        except NotFound as error:
            if "couldn't find remote ref" not in str(error):
                raise
            return Look("", "")
        names = (
            f"{self._private}^{{commit}}",
            f"{self._private}^{{tree}}",
            f"{self._private}:{self.place.path}",
        )
        out = self.mirror.git.run("cat-file", "--batch", input="".join(f"{n}\n" for n in names).encode()).out
        commit, tree, file = parse_heads(out, 3)
        if commit is None or tree is None:
            raise NotFound(f"The branch {self.place.branch} of {self.mirror.remote.key} went away.")
        text = _text(file[2] if file is not None and file[1] == "blob" else None)
        return Look(commit[0], text, tree[0])

    def _fetch(self, stop: Stop | None) -> None:
        """Fetch the branch; another thread or process may be just about that, too."""
        for tries in range(1, _FETCHES + 1):
            try:
                self.mirror.fetch_into(self.place.ref, self._private, stop=stop)
            except PushRejected:  # the private ref is locked for a moment
                if tries == _FETCHES:
                    raise
                self._pause(_SOON * tries * (0.5 + self._jitter()))
            else:
                return

    def write(
        self, change: Callable[[str], str], *, message: str, when: int, stop: Stop | None = None
    ) -> Written:
        """Change the file on the remote, whatever others write meanwhile.

        Args:
            change: Makes the new text of the present one; called again for each try. An empty text is no
                file. What it raises ends the writing.
            message: The commit's.
            when: Seconds since the epoch.
            stop: Called now and then; what it raises ends the work.

        Raises:
            PushRejected: Others were faster each time.
            GitError: The remote did not answer, or refused.
        """
        with self.mirror.using():
            return self._write(change, message, when, stop)

    def _write(self, change: Callable[[str], str], message: str, when: int, stop: Stop | None) -> Written:
        for tries in range(1, _TRIES + 1):
            began = time.monotonic()
            found = self.read(stop=stop)
            self.mirror.tidy(stop=stop)  # each try leaves packs, and many packs make the next ones slower
            text = change(found.text)
            if text == found.text:
                return Written("", text, tries)
            file = {self.place.path: text.encode("utf-8", "surrogateescape")}
            base, tree = ("", found.tree) if self.place.own else (found.tip, "")
            (commit,) = self._branch.grow(
                base, [NewCommit(message, file, tree)], author=self._author, when=when, stop=stop
            )
            try:
                self._branch.push(commit, onto=found.tip, stop=stop)
            except PushRejected:
                if tries == _TRIES:
                    raise
                turns = min(_MOST_TURNS, 2.0**tries) * self._jitter()
                self._pause(min(_LONGEST_PAUSE, turns * (time.monotonic() - began)))
            else:
                return Written(commit, text, tries)
        raise AssertionError  # the last try returns or raises


def _text(content: bytes | None) -> str:
    return "" if content is None else content.decode("utf-8", "surrogateescape")
