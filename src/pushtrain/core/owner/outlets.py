"""Where a run's results may go with the owner's credentials, beside its own results branch. Pure.

`pushtrain/results` belongs to pushtrain, and whoever pushed a branch may write to it. Any other branch, and
any store, is written with rights that are the owner's and perhaps not the sender's; so the owner names it.
"""

from typing import Final, NamedTuple

from pushtrain.core.owner.rules import Rules
from pushtrain.core.text.forms import clean, listed
from pushtrain.core.text.patterns import selects
from pushtrain.core.values.command import Checkpoint
from pushtrain.core.values.jobspec import JobSpec
from pushtrain.core.values.names import below_store
from pushtrain.core.values.value import RESULTS_BRANCH

BRANCHES: Final = "rules.results_branches"
URLS: Final = "rules.artifact_urls"


class Shut(NamedTuple):
    """A place that results may not go to."""

    rule: str
    why: str
    """To follow the rule's name and a colon, without a full stop."""
    mend: str


def closed(rules: Rules, checkpoint: Checkpoint) -> Shut | None:
    """Which rule is against the place that a run's checkpoint would be fetched from; None: none.

    It is read with the owner's credentials, and whoever sends the command says where it lies.
    """
    url = checkpoint.url
    if checkpoint.where != "url" or any(below_store(url, allowed) for allowed in rules.artifact_urls):
        return None
    return Shut(
        URLS,
        f"its checkpoint would be fetched from {clean(url)} with the owner's credentials",
        'Write `checkpoint_to = "lfs"`, or ask the owner for the URL.',
    )


def shut(rules: Rules, job: JobSpec, ref: str) -> Shut | None:
    """Which rule is against the places that a job wants its results at; None: none.

    Args:
        rules: The owner's.
        job: The job.
        ref: What was pushed.
    """
    target = job.results_to
    pushed = "" if target.repository else ref.removeprefix("refs/heads/")
    if target.branch not in {RESULTS_BRANCH, "same", pushed} and not selects(
        rules.results_branches, target.branch
    ):
        allowed = f"{listed(rules.results_branches)} are allowed" if rules.results_branches else "no other is"
        return Shut(
            BRANCHES,
            f"its results would go to the branch `{clean(target.branch)}`, and beside `{RESULTS_BRANCH}` and "
            f"the pushed branch {allowed}",
            'Write `branch = "same"` or leave it out in `[results]`, or ask the owner for the branch.',
        )
    places = (
        (target.artifacts, "large files", 'Write `artifacts = "lfs"` or leave it out in `[results]`'),
        (job.checkpoint_to, "checkpoint", 'Write `checkpoint_to = "lfs"` or leave it out'),
    )
    for url, what, mend in places:
        if "://" in url and not any(below_store(url, allowed) for allowed in rules.artifact_urls):
            return Shut(
                URLS,
                f"its {what} would go to {clean(url)} with the owner's credentials",
                f"{mend}, or ask the owner for the URL.",
            )
    return None
