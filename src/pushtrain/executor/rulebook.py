"""The owner's rules, enforced: at the door, and again before anything of a repository is run.

What can be decided of a command alone is decided when it comes in, so that its sender hears of it at once. It
is decided again when its attempt is prepared, since rules may have changed while it waited; then the world is
asked what only it can tell: the Git host which number a repository has, the mirror whether a branch holds a
pull request's commit and who signed it. What cannot be found out is not allowed.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pushtrain.core.errors import BeyondLimits, ConfigError, CredentialError, NotFound, Refused, Unreachable
from pushtrain.core.jobs.jobfile import FILE
from pushtrain.core.owner import outlets, ruling
from pushtrain.core.owner.rules import Allow, Rules
from pushtrain.core.owner.ruling import Allowed, Question, RefKind, Refusal, Sender
from pushtrain.core.settings import Settings
from pushtrain.core.text.forms import clean
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.run import Run
from pushtrain.core.wire.grants import Grant, Scope
from pushtrain.executor.runs.hooks import Hooks
from pushtrain.plumbing.data.ledger import Exhausted, Quiet
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.git.complaint import ShutOut
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.git.signatures import Signers
from pushtrain.ports import Stop

_log = logging.getLogger(__name__)

NumberOf = Callable[[str], str]
"""The number that its Git host has for a repository's key.

Raises ConfigError where this executor cannot ask that host at all, NotFound or CredentialError where the host
does not tell, and Unreachable where it may tell later.
"""

_FIRST_PAUSE: Final = 60.0
_LONGEST_PAUSE: Final = 3600.0
_ASK_OWNER: Final = "Ask the executor's owner; the executor's log tells more."


class Against(Exception):
    """A rule is against an attempt.

    Args:
        refusal: Which one, and why.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.sentence)
        self.refusal = refusal


def unasked(key: str) -> str:
    """The answer of an executor that asks no host. Raises ConfigError."""
    raise ConfigError(
        f"this executor asks no host about {clean(key)}",
        mend="Its owner names the host's API in `status_api`, or takes `id` away.",
    )


@dataclass(frozen=True, slots=True)
class Rulebook:
    """What the owner allows, and whom to ask where that takes more than the command."""

    rules: Rules
    executor: str = "executor"
    """Its name, for messages."""
    grant_of: Callable[[str], Grant | None] = lambda _: None
    """What `authorized_keys` says of the key with a fingerprint, or of the one that took its place."""
    number_of: NumberOf = unasked
    signers: Signers | None = None
    hooks: Hooks = field(default_factory=Hooks)
    now: Callable[[], float] = lambda: 0.0

    @classmethod
    def of(
        cls,
        settings: Settings,
        state: StateFolder,
        *,
        grant_of: Callable[[str], Grant | None],
        number_of: NumberOf = unasked,
        now: Callable[[], float] = time.time,
    ) -> "Rulebook":
        """The rules of an executor's settings.

        Args:
            settings: What the owner set.
            state: Where paths begin that are not absolute, and where GPG keys are kept.
            grant_of: What the key with a fingerprint may do.
            number_of: Asks a Git host.
            now: Seconds since the epoch.
        """

        def path(text: str) -> Path | None:
            return state.root / Path(text).expanduser() if text else None

        rules = settings.rules
        signers = Signers(path(rules.allowed_signers), path(rules.gpg_keyring), state.signers)
        return cls(
            rules,
            executor=settings.executor.name,
            grant_of=grant_of,
            number_of=number_of,
            signers=signers if rules.require_signed_commits else None,
            hooks=Hooks(rules.hooks, executor=settings.executor.name),
            now=now,
        )

    def check(self) -> None:
        """See before any run that what the rules need is there.

        Raises:
            ConfigError: It is not; names the rule and the mend.
        """
        if self.signers is not None:
            self.signers.check()
        self.hooks.check()

    # --- at the door --------------------------------------------------------------------------------------

    def admit(self, command: TrainCommand, sender: str) -> None:
        """Let a command in.

        Args:
            command: What was sent.
            sender: The fingerprint of the key that signed it.

        Raises:
            Refused: A rule does not allow it.
            BeyondLimits: Its job asks for more than a run may have.
        """
        answer = self._permit(command, sender)
        if isinstance(answer, Refusal):
            raise Refused(self._told(answer), mend=answer.mend)
        if shut := self._shut(command):
            raise Refused(self._told(shut), mend=shut.mend)
        if over := ruling.beyond(self.rules.limits, command.job):
            raise BeyondLimits(self._told(over), mend=over.mend)

    def _permit(self, command: TrainCommand, sender: str) -> Allowed | Refusal:
        return ruling.permit(self.rules, Question.of(command, self.who(sender)))

    def who(self, key: str) -> Sender:
        """Whose key it is, as `authorized_keys` says now."""
        grant = self.grant_of(key)
        return Sender(key, grant.name, grant.was) if grant else Sender(key)

    def _shut(self, command: TrainCommand) -> Refusal | None:
        """The rule that is against the places that its results would go to."""
        found = outlets.shut(self.rules, command.job, command.ref)
        if found is None and command.checkpoint is not None:
            found = outlets.closed(self.rules, command.checkpoint)
        return Refusal(found.rule, found.why, found.mend) if found else None

    def _told(self, refusal: Refusal) -> str:
        return f"Executor {self.executor} refuses it by its owner's rule `{refusal.rule}`: {refusal.why}."

    # --- before anything is run ---------------------------------------------------------------------------

    def recheck(self, run: Run, *, let_in: Callable[[], bool] = lambda: False) -> Allowed:
        """Decide again of a run that has waited, and see that its repository is the one that was meant.

        Args:
            run: Which one.
            let_in: Whether the repository's host has let this executor in before: then it is a token that has
                ended, perhaps, and nothing that whoever sent the run could mend.

        Raises:
            Against: A rule does not allow it, or it must wait.
            ShutOut: The host does not tell the repository's number any more.
        """
        command, grant = run.command, self.grant_of(run.sender)
        target = command.job.results_to.repository
        if grant and not (
            grant.sends(command.ref)
            and all(grant.allows(Scope.SEND, one) for one in (command.repository, target))
        ):
            why = "the key that sent it may not send this any more"
            raise Against(Refusal(ruling.KEYS, why, "Ask the executor's owner to widen its line there."))
        answer = self._permit(command, run.sender)
        if isinstance(answer, Refusal):
            raise Against(answer)
        if against := self._shut(command) or ruling.beyond(self.rules.limits, command.job):
            raise Against(against)
        by = self._by_number(answer.by, run.command.repository, run.attempt, let_in)
        results_by = answer.results_by
        if results_by:
            results_by = self._by_number(results_by, target, run.attempt, let_in)
        return Allowed(by, results_by)

    def prove(self, run: Run, allowed: Allowed, mirror: Mirror, *, stop: Stop | None = None) -> None:
        """See that what was fetched is what the rules allow; nothing of it has been run.

        Args:
            run: Whose commit is in the mirror.
            allowed: What `recheck` gave.
            mirror: The repository's.
            stop: Called now and then.

        Raises:
            Against: A rule does not allow it.
            GitError: git could not look.
        """
        command, rules = run.command, self.rules
        own = ruling.kind_of(command.ref) is not RefKind.PULL or any(entry.forks for entry in allowed.by)
        if not own and not mirror.ref_with(command.commit, stop=stop):
            _unless_refused(ruling.by_branch(allowed.by, command.ref))
        if rules.require_signed_commits:
            self._see_signature(command, mirror, stop)
        if rules.committed_jobs or rules.require_signed_commits:
            file = mirror.commits.show(command.commit, FILE)
            if refusal := ruling.committed(command.job, file, command.commit):
                raise Against(refusal)

    def ask_hooks(self, run: Run, *, isolation: str, stop: Stop) -> None:
        """Let the owner's programs have their say, once all else allows the attempt.

        Raises:
            Against: One of them refuses it.
        """
        if refusal := self.hooks.before(run, self.who(run.sender), isolation=isolation, stop=stop):
            raise Against(refusal)

    def used_up(self, error: Exhausted | Quiet) -> Against:
        """What a limit of downloads means for an attempt that would exceed it: the day's, or the hour's."""
        if isinstance(error, Quiet):
            end = time.strftime("%H:%M", time.localtime(error.until))
            why = f"nothing is downloaded at this hour; it goes on at {end} of the executor's time"
            return Against(Refusal(ruling.QUIET, why, again_at=error.until))
        most = ruling.amount(error.limit)
        if error.needed is not None:
            why = f"{ruling.amount(error.needed)} must come at once, and {most} may come in a day"
            return Against(Refusal(ruling.DOWNLOADS, why, "Use less data, or another executor."))
        why = f"the {most} that may come in a day are used up; it goes on after midnight UTC"
        return Against(Refusal(ruling.DOWNLOADS, why, again_at=error.until))

    def _by_number(
        self, entries: tuple[Allow, ...], key: str, attempt: int, let_in: Callable[[], bool]
    ) -> tuple[Allow, ...]:
        """The entries that are left once the host has told the repository's number."""
        if not all(entry.id for entry in entries):
            return tuple(entry for entry in entries if not entry.id)
        try:
            number = self.number_of(key)
        except Unreachable as error:
            pause = min(_FIRST_PAUSE * 2 ** min(max(attempt, 1) - 1, 10), _LONGEST_PAUSE)
            why = f"the host of {key} does not tell its number now: {_plain(error.message)}"
            raise Against(Refusal(ruling.ALLOW, why, again_at=self.now() + pause)) from error
        except (ConfigError, CredentialError, NotFound) as error:
            why = f"the host of {key} does not tell its number: {_plain(error.message)}"
            if not isinstance(error, ConfigError) and let_in():
                _log.error(
                    "the rule %s cannot be applied, and runs wait: %s. %s", ruling.ALLOW, why, error.mend
                )
                raise ShutOut(f"By its owner's rule `{ruling.ALLOW}` {why}.", mend=error.mend) from error
            raise Against(Refusal(ruling.ALLOW, why, error.mend)) from error
        return _unless_refused(ruling.by_number(entries, key, number))

    def _see_signature(self, command: TrainCommand, mirror: Mirror, stop: Stop | None) -> None:
        short = command.commit[:7]
        if self.signers is None:
            raise Against(Refusal(ruling.SIGNED, "no list of signers can be read", _ASK_OWNER))
        try:
            found = self.signers.of(mirror.git, command.commit, stop=stop)
        except ConfigError as error:
            _log.error("the rule %s cannot be applied: %s", ruling.SIGNED, error)
            raise Against(Refusal(ruling.SIGNED, "no list of signers can be read", _ASK_OWNER)) from error
        if found.why:
            mend = "Sign it with a key that the owner lists: `git commit --amend --no-edit -S`, then push."
            raise Against(Refusal(ruling.SIGNED, f"of commit {short}, {found.why}", mend))


def _unless_refused(answer: tuple[Allow, ...] | Refusal) -> tuple[Allow, ...]:
    if isinstance(answer, Refusal):
        raise Against(answer)
    return answer


def _plain(text: str) -> str:
    return f"{text[:1].lower()}{text[1:]}".rstrip(".")
