"""`pushtrain invite`: let somebody else's machine send to this executor, by a code that is good once."""

import secrets
import signal
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from pushtrain.cli.granting import Branches, Expires, Name, Repos, Scopes, called, pattern, rights
from pushtrain.cli.options import Json, State
from pushtrain.cli.screen import render
from pushtrain.core.errors import Unauthorized, Unreachable, UsageError
from pushtrain.core.wire.grants import Scope, Terms, check_name, check_patterns, moment
from pushtrain.core.wire.invitation import (
    LONGEST,
    SECRET_BYTES,
    TRIES,
    Code,
    Invitation,
    Standing,
    derived,
    invitation,
    spell,
)
from pushtrain.core.wire.signing import fingerprint, parse_public, public_text
from pushtrain.plumbing.disk.lock import holder
from pushtrain.plumbing.keys.authorized import load_or_create
from pushtrain.plumbing.keys.invitations import Invitations
from pushtrain.plumbing.keys.keyfile import check_word
from pushtrain.wiring.parts import local_url, running_card
from pushtrain.wiring.settings import open_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pushtrain.core.values.card import ExecutorCard
    from pushtrain.plumbing.disk.state import StateFolder

_LOOK: Final = 0.2
"""Seconds between two looks at what became of the invitation."""
_BURNT: Final = (
    "The invitation is withdrawn: requests came that named it and did not know its code, so a machine "
    "between the two sides changes what they send. Nobody was authorised."
)


def invite(
    *,
    name: Name = "",
    repo: Repos = (),
    branch: Branches = (),
    scope: Scopes = (),
    expires: Expires = "",
    valid: str = "10m",
    wait: Annotated[bool, Parameter(negative="--no-wait")] = True,
    json: Json = False,
    state: State = None,
) -> None:
    """Invite somebody to send to the executor that runs here, by a code that is good once, for ten minutes.

    On the other machine `pushtrain join CODE` exchanges both keys, and proves with the code that nobody in
    between has changed one. Give the code to nobody else; once it was used or is over, it is worthless.

    This waits until somebody has joined, and says who. Ctrl-C withdraws the code.

    Args:
        valid: How long the code is good, a day at most.
        wait: Wait for whoever joins; with `--no-wait` the code is printed and stays good.
    """
    folder = open_state(state)
    card = _serving(folder)
    now = time.time()
    terms = _terms(name=name, repo=repo, branch=branch, scope=scope, expires=expires, now=now)
    secret = secrets.token_bytes(SECRET_BYTES)
    made = invitation(derived(secret), terms=terms, now=now, lifetime=_lifetime(valid))
    invitations = Invitations(folder.invitations)
    invitations.keep(made, now)
    with _withdrawing(invitations, made, wait=wait):
        _announce(made, secret, card, folder, as_json=json)
        if not wait:
            return
        joined = _waited_for(invitations, made, as_json=json)
    key_id = fingerprint(parse_public(joined.joined_by))
    if json:
        found = {
            "joined": {"fingerprint": key_id, "public_key": joined.joined_by, **terms.model_dump(mode="json")}
        }
        render.emit_json(found)
        return
    render.say(f"[bold]{called(terms.name or 'somebody', key_id)} joined[/], and may {rights(terms)}.")
    render.say(f"[dim]To take that back: pushtrain key revoke {terms.name or key_id}[/]")


def _serving(folder: "StateFolder") -> "ExecutorCard":
    card = running_card(folder)
    if card is None or holder(folder.lock) is None:
        own = public_text(load_or_create(folder.key).public_key())
        raise UsageError(
            "No executor runs on this state folder, so nobody could join.",
            mend="Start it: `pushtrain executor` or `pushtrain up`. Without one, exchange the keys by hand: "
            f"here `pushtrain key authorize KEY`, there `pushtrain key trust {own}`.",
        )
    return card


def _terms(
    *,
    name: str,
    repo: tuple[str, ...],
    branch: tuple[str, ...],
    scope: tuple[Scope, ...],
    expires: str,
    now: float,
) -> Terms:
    try:
        check_patterns(*map(pattern, repo), *branch)
        check_name(name)
        until = moment(expires, now) if expires else None
    except ValueError as error:
        raise UsageError(f"{str(error)[0].upper()}{str(error)[1:]}.") from error
    terms = Terms(
        scopes=tuple(dict.fromkeys(scope)) or tuple(Scope),
        repositories=tuple(dict.fromkeys(pattern(each) for each in repo)),
        branches=tuple(dict.fromkeys(branch)),
        name=name,
        expires=until,
    )
    for word in filter(None, (*terms.repositories, *terms.branches, name)):
        check_word(word)
    return terms


def _lifetime(valid: str) -> float:
    from pushtrain.core.text.forms import Wrong, duration

    try:
        seconds = duration(valid)
    except Wrong as error:
        raise UsageError(f"`--valid {valid[:40]}` {error.problem}.", mend=error.mend) from error
    if seconds > LONGEST:
        raise UsageError(
            f"`--valid {valid[:40]}` is longer than a day.", mend="Invite when the other side is there."
        )
    return seconds


def _announce(
    made: Invitation, secret: bytes, card: "ExecutorCard", folder: "StateFolder", *, as_json: bool
) -> None:
    code = Code(secret, card.public_url)
    here = card.public_url == local_url(card)
    if as_json:
        found = {
            "code": str(code),
            "address": card.public_url,
            "only_from_here": here,
            "until": made.expires_at,
        }
        render.emit_json(found)
        sys.stdout.flush()
        return
    render.say(f"On the other machine, within {render.seconds(made.expires_at - made.made_at)}:\n")
    render.say(f"    [bold]pushtrain join {render.literal(str(code))}[/]\n")
    if here:
        own = public_text(load_or_create(folder.key).public_key())
        render.say(
            "This executor has no tunnel, so the code works on this machine only. For another machine "
            "exchange the keys by hand:\n"
            "  here   pushtrain key authorize KEY   [dim]# what `pushtrain key show` prints there[/]\n"
            f"  there  pushtrain key trust {own}\n"
        )
    elif card.repositories:
        served = render.literal(", ".join(card.repositories))
        render.say(f"[dim]In a clone of {served} `pushtrain join {spell(secret)}` is enough.[/]")
    sys.stdout.flush()


def _waited_for(invitations: Invitations, made: Invitation, *, as_json: bool) -> Invitation:
    """The invitation once somebody has joined.

    Raises:
        Unreachable: Nobody did in time.
        Unauthorized: Somebody who does not know the code interferes.
    """
    if not as_json:
        render.say("[dim]Waiting for it; Ctrl-C withdraws the code.[/]")
        sys.stdout.flush()
    told = 0
    while True:
        found = invitations.find(made.name)
        if found is None:
            raise Unreachable("The invitation was withdrawn.", mend="Invite anew: `pushtrain invite`.")
        match found.standing(time.time()):
            case Standing.JOINED if found.settled:
                return found
            case Standing.BURNT:
                raise Unauthorized(
                    _BURNT, mend="Try another network, or exchange the keys by hand: docs/keys.md."
                )
            case Standing.EXPIRED:
                raise Unreachable("Nobody joined in time.", mend="Invite anew: `pushtrain invite`.")
            case _:
                pass
        if found.wrong > told and not as_json:
            told = found.wrong
            render.say(
                f"[yellow]A request named this invitation and did not know its code ({told} of {TRIES}).[/]"
            )
            sys.stdout.flush()
        time.sleep(_LOOK)  # the executor, another process, writes down who has joined


@contextmanager
def _withdrawing(invitations: Invitations, made: Invitation, *, wait: bool) -> "Iterator[None]":
    """Take the code back if whoever waits for it goes away, whatever the reason."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop) if wait else None
    try:
        yield
    except BaseException:
        invitations.withdraw(made.name, time.time())
        raise
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
