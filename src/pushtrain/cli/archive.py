"""What has been published: the results branch of the clone that we stand in, and how to find a run there.

The branch is fetched first; where the network is away, what was fetched before is used, and that is said.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pushtrain.cli.clone import Clone, open_clone
from pushtrain.cli.published import PublishedRuns, Record
from pushtrain.cli.screen import render
from pushtrain.core.errors import NotFound, PushtrainError, UsageError
from pushtrain.core.jobs import jobfile
from pushtrain.core.values.jobspec import ResultsTarget
from pushtrain.core.values.value import RESULTS_BRANCH


@dataclass(frozen=True, slots=True)
class Archive:
    """A clone, and the runs on its results branch."""

    clone: Clone
    runs: PublishedRuns

    def find(self, which: str, *, limit: int) -> list[Record]:
        """Published runs by id, commit, branch or job, newest first; the newest where `which` is empty.

        Raises:
            NotFound: There is no results branch.
        """
        return self.runs.find(which, commit=self._commit(which), limit=limit)

    def one(self, which: str) -> Record:
        """The newest of them.

        Raises:
            NotFound: There is none.
            UsageError: Its run has several folders, and `which` names none of them.
        """
        found = self.find(which, limit=1)
        if not found:
            what = f"fits `{which}`" if which else "is on the results branch yet"
            raise NotFound(f"No published run {what}.", mend="`pushtrain results list` lists them.")
        self.only(found[0], which)
        return found[0]

    def only(self, record: Record, which: str) -> None:
        """Refuse to choose where a record's run has several folders and none of them was named.

        Raises:
            UsageError: It has; names them.
        """
        others = self.runs.others(record)
        if not others or which.strip("/") == record.folder.path:
            return
        paths = ", ".join(sorted(folder.path for folder in (record.folder, *others)))
        raise UsageError(
            f"Run {record.run.short} has several folders on the results branch: {paths}.",
            mend="Name one of them in place of the run; `pushtrain show` asks the executor for its own.",
        )

    def _commit(self, which: str) -> str:
        """The commit that a word such as HEAD means here; a branch's name means the branch."""
        if not which or self.clone.ask("rev-parse", "--quiet", "--verify", f"refs/heads/{which}"):
            return ""
        return self.clone.ask("rev-parse", "--quiet", "--verify", "--end-of-options", f"{which}^{{commit}}")


def open_archive(branch: str = "", remote: str = "origin", *, offline: bool = False) -> Archive:
    """The results branch of the clone we stand in.

    Args:
        branch: Its name; empty: the one that the work tree's `pushtrain.toml` names.
        remote: Remote or URL that has it.
        offline: Whether to leave the network alone.

    Raises:
        UsageError: We stand in no clone, or the results go to another repository.
        GitError: The remote did not answer, and nothing was fetched before.
    """
    clone = open_clone(Path.cwd())
    target = _configured(clone)
    if target.repository and remote == "origin":
        raise UsageError(
            f"Results of this repository go to {target.repository}.", mend="Name its URL with `--remote`."
        )
    name = branch or target.branch
    if name == "same":
        name = clone.branch() or RESULTS_BRANCH
    place = "origin" if remote == "origin" else hashlib.sha256(remote.encode()).hexdigest()[:12]
    runs = PublishedRuns(clone, f"refs/remotes/{place}/{name}")
    trouble = None if offline else runs.fetch(remote, name)
    if trouble is not None and runs.tip:
        render.note(f"pushtrain: {trouble.message} What was fetched before is shown.")
    elif trouble is not None and not isinstance(trouble, NotFound):
        raise trouble
    return Archive(clone, runs)


def _configured(clone: Clone) -> ResultsTarget:
    """Where this work tree's `pushtrain.toml` says that results go."""
    try:
        return jobfile.parse((clone.root / "pushtrain.toml").read_text("utf-8")).results
    except (OSError, UnicodeDecodeError, PushtrainError):
        return ResultsTarget()
