"""What every value is: frozen, strict about fields that it does not know; and the strings that are checked.

Sizes are bytes, durations seconds, times seconds since the epoch (float, UTC). A value that crosses a
boundary (a file, a socket, the store) is a `Value`; `model_dump_json()` is its wire form.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

from pushtrain.core.values import names

Scalar = bool | int | float | str
"""What one matrix parameter may hold."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
CommitId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$|^[0-9a-f]{64}$")]
RepositoryKey = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9._~:-]+(/[A-Za-z0-9._~-]+)+$", max_length=400)
]
"""`host/path`, for example `github.com/octo/hello`; lower-case host, no `.git`, no user."""

JobName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
RunId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]

RESULTS_BRANCH: Final = "pushtrain/results"
CONFIG_BRANCH: Final = "pushtrain/config"
MOST: Final = 2**53
"""The largest number that every JSON reader and the store take."""


def judged(problem: Callable[[str], str], *, words: Sequence[str] = ("",)) -> AfterValidator:
    """Refuse what a name's judge has something to say about; `words` are always good."""

    def judge(value: str) -> str:
        if value not in words and (why := problem(value)):
            raise ValueError(f"{value[:100]!r} {why}")
        return value

    return AfterValidator(judge)


def not_for_results(branch: str) -> str:
    """Why results cannot go to this branch; empty: they can."""
    return (
        "is where executors keep their addresses" if branch == CONFIG_BRANCH else names.branch_problem(branch)
    )


RefName = Annotated[str, judged(names.ref_problem, words=())]
BranchName = Annotated[str, judged(not_for_results, words=("same",))]
Variable = Annotated[str, judged(names.variable_problem, words=())]
Argument = Annotated[str, judged(names.argument_problem)]


class Value(BaseModel):
    """A frozen value with no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
