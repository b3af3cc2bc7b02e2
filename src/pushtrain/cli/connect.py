"""From words on the command line to runs on executors."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pushtrain.core.errors import NotFound, Unreachable, UsageError
from pushtrain.core.model import Run, RunView
from pushtrain.plumbing.client import ExecutorClient
from pushtrain.wiring.parts import executor_clients
from pushtrain.wiring.settings import load_settings, open_state

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Found:
    """A run, and the executor that has it."""

    client: ExecutorClient
    view: RunView

    @property
    def run(self) -> Run:
        """The run itself."""
        return self.view.run


def clients(state: Path | None) -> list[ExecutorClient]:
    """The executors that this state folder knows.

    Raises:
        UsageError: It knows none.
    """
    folder = open_state(state)
    found = executor_clients(folder, load_settings(folder))
    if not found:
        raise UsageError(
            f"No executor is known: none runs on {folder.root} and its settings name none.",
            mend="Start one with `pushtrain up`, or name one under [sender] in settings.toml.",
        )
    return found


def find_runs(text: str, state: Path | None, *, limit: int) -> list[tuple[ExecutorClient, Run]]:
    """Runs by id, commit, branch or job, newest first; every run where `text` is empty.

    An executor that does not answer is passed over as long as another one does.

    Raises:
        Unreachable: No executor answers.
    """
    found: list[tuple[ExecutorClient, Run]] = []
    trouble: list[Unreachable] = []
    everyone = clients(state)
    for client in everyone:
        try:
            runs = client.runs(find=text, limit=limit)
            if not runs and text and (commit := _local_commit(text)):
                runs = client.runs(find=commit, limit=limit)
        except Unreachable as error:
            trouble.append(error)
            continue
        found += [(client, run) for run in runs]
    if len(trouble) == len(everyone):
        raise trouble[0]
    return sorted(found, key=lambda pair: pair[1].accepted_at, reverse=True)[:limit]


def find_run(text: str, state: Path | None) -> Found:
    """The newest run that `text` means: an id or its beginning, a commit, a branch, a job; empty: the newest.

    Raises:
        NotFound: There is none.
        UsageError: It is the beginning of several ids.
    """
    found = find_runs(text, state, limit=_SHOWN)
    if not found:
        what = f"for `{text}`" if text else "yet"
        raise NotFound(f"There is no run {what}.", mend="`pushtrain ps` lists the runs.")
    by_id = [pair for pair in found if text and pair[1].id.startswith(text.lower())]
    if len(by_id) > 1:
        ids = ", ".join(run.short for _, run in by_id)
        raise UsageError(f"`{text}` is the beginning of several runs: {ids}.", mend="Give more digits.")
    client, run = (by_id or found)[0]
    return Found(client, client.view(run.id))


def _local_commit(text: str) -> str:
    """What `text` means in the repository we stand in, such as HEAD or a tag; empty when nothing."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_./~^@{}-]*", text):
        return ""
    argv = ("git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{text}^{{commit}}")
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
