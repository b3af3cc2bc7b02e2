"""How keys and their rights are said on the command line: read from flags, shown to people and to scripts."""

from datetime import UTC, datetime
from typing import Annotated, Final

from cyclopts import Parameter

from pushtrain.core.errors import UsageError
from pushtrain.core.wire.grants import Grant, Scope, Terms, Trust
from pushtrain.core.wire.signing import fingerprint, parse_public

Name = Annotated[str, Parameter(help="For people; one word.")]
Repos = Annotated[
    tuple[str, ...],
    Parameter(
        name="--repo",
        negative="",
        help="Only for this repository, such as `github.com/octo/hello`, or for those of a pattern such as "
        "`github.com/octo/*`; may be given several times. Every one that is served when left out.",
    ),
]
Branches = Annotated[
    tuple[str, ...],
    Parameter(
        name="--branch",
        negative="",
        help="Only commits of this branch, or of those of a pattern such as `exp/**`; may be given several "
        "times. Every branch and tag when left out.",
    ),
]
Scopes = Annotated[
    tuple[Scope, ...],
    Parameter(
        name="--scope", negative="", help="Only this; may be given several times. All three when left out."
    ),
]
Expires = Annotated[
    str, Parameter(help="Until this date or time, such as 2027-01-31, or for so long, such as 90d.")
]

SERVED: Final = "every repository served here"


def pattern(repo: str) -> str:
    """A repository's key or a pattern of keys; a remote is understood, too.

    Raises:
        UsageError: It is neither.
    """
    if "://" in repo or "@" in repo:
        from pushtrain.plumbing.git.remotes import key_of

        return key_of(repo)
    if repo in {"*", "**"}:
        return "**"
    if "/" not in repo:
        raise UsageError(
            f"`{repo}` is no repository.", mend="Write it like github.com/octo/hello or github.com/octo/*."
        )
    return repo


def id_of(public: str) -> str:
    """A key's fingerprint."""
    return fingerprint(parse_public(public))


def called(name: str, key_id: str) -> str:
    """A key as people know it, fit to stand in markup."""
    from pushtrain.cli.screen import render

    return f"{render.literal(name)} ({key_id})" if name else key_id


def rights(terms: Terms, *, everywhere: str = SERVED) -> str:
    """What the terms allow, in words."""
    where = ", ".join(terms.repositories) or everywhere
    if terms.branches:
        where += f", branches {', '.join(terms.branches)}"
    return f"{', '.join(terms.scopes)} for {where}{f', until {day(terms.expires)}' if terms.expires else ''}"


def day(moment: float) -> str:
    """A moment, to the minute, in UTC."""
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"


def document(entry: Grant | Trust) -> dict[str, object]:
    """An entry for scripts."""
    return {"fingerprint": id_of(entry.public_key), **entry.model_dump(mode="json")}
