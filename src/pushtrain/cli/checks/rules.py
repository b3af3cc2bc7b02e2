"""What `pushtrain doctor` finds of the owner's rules: whether what they need is there, and what hosts say."""

from collections.abc import Iterator

from pushtrain.cli.checks.finding import Finding
from pushtrain.core.errors import PushtrainError
from pushtrain.core.owner.rules import Allow
from pushtrain.core.owner.ruling import Refusal, by_number
from pushtrain.core.settings import Settings
from pushtrain.core.text.patterns import selects
from pushtrain.executor.rulebook import Rulebook
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.wiring.statuses import repositories


def rules(folder: StateFolder, settings: Settings) -> Iterator[Finding]:
    """Lists of signers, hooks, and the numbers of repositories at their host."""
    Rulebook.of(settings, folder, grant_of=lambda _: None).check()
    count = len(settings.rules.allow)
    told = f"{count} entr{'ies' if count != 1 else 'y'} of `rules.allow`" if count else "the defaults"
    yield Finding("rules", "ok", f"{told}; `pushtrain executor rules` explains them")
    for repository in settings.repositories:
        named = tuple(
            entry
            for entry in settings.rules.allow
            if selects((entry.repository,), repository.key) and entry.id
        )
        if named:
            yield _number(settings, repository.key, named)


def _number(settings: Settings, key: str, named: tuple[Allow, ...]) -> Finding:
    try:
        answer = by_number(named, key, repositories(settings).number_of(key))
    except PushtrainError as error:
        return Finding("rules", "wrong", f"`id` cannot be proven: {error.message}", error.mend)
    if isinstance(answer, Refusal):
        return Finding("rules", "wrong", answer.why, "If it is yours, mend `id` in `[[rules.allow]]`.")
    return Finding("rules", "ok", f"{key} has the number that you allow")
