"""Where a run's results may go with the owner's credentials, beside its own results branch. Pure.

`pushtrain/results` belongs to pushtrain, and whoever pushed a branch may write to it. Any other branch, and
any store, is written with rights that are the owner's and perhaps not the sender's; so the owner names it.
"""

from typing import Final, NamedTuple

from pushtrain.core.forms import clean, listed
from pushtrain.core.model import RESULTS_BRANCH, JobSpec
from pushtrain.core.names import below_store
from pushtrain.core.patterns import selects
from pushtrain.core.rules import Rules

BRANCHES: Final = "rules.results_branches"
URLS: Final = "rules.artifact_urls"


class Shut(NamedTuple):
    """A place that results may not go to."""

    rule: str
    why: str
    """To follow the rule's name and a colon, without a full stop."""
    mend: str


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
    url = target.artifacts
    if "://" in url and not any(below_store(url, allowed) for allowed in rules.artifact_urls):
        return Shut(
            URLS,
            f"its large files would go to {clean(url)} with the owner's credentials",
            'Write `artifacts = "lfs"` or leave it out in `[results]`, or ask the owner for the URL.',
        )
    return None
