"""Parts that more than one room or verb needs: mirrors, the identity, clients of executors."""

import importlib
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from pushtrain.core.errors import Forbidden
from pushtrain.core.owner.outward import Outward
from pushtrain.core.owner.rules import Rules
from pushtrain.core.settings import ExecutorAddress, Repository, Settings
from pushtrain.core.text.patterns import selects
from pushtrain.core.values.card import ExecutorCard
from pushtrain.core.wire.signing import fingerprint, parse_public
from pushtrain.core.wire.succession import header
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.plumbing.keys.authorized import Trusted, load_or_create
from pushtrain.plumbing.keys.identity import Ring, forget_former
from pushtrain.wiring.trust import distrusted, follow, heirs

if TYPE_CHECKING:
    from pushtrain.plumbing.git.mirror import Mirror


def mirror(
    state: StateFolder,
    repository: Repository,
    environ: Mapping[str, str] = os.environ,
    *,
    rules: Rules | None = None,
) -> "Mirror":
    """The repository's mirror in this state folder; `PUSHTRAIN_GIT_TOKEN` is its token where it is set."""
    from pushtrain.plumbing.git.mirror import Mirror  # lazy: most verbs look into no repository
    from pushtrain.plumbing.git.survey import Bounds

    rules = rules or Rules()
    return Mirror(
        state.repositories,
        repository,
        token=environ.get("PUSHTRAIN_GIT_TOKEN", ""),
        bounds=Bounds(
            files=rules.limits.files,
            size=rules.limits.repository,
            lfs=rules.limits.disk or rules.limits.repository,
        ),
        lent=partial(selects, rules.submodules),
        outward=Outward(rules.allow_data_hosts),
    )


def mirrors(state: StateFolder, settings: Settings) -> "Callable[[str], Mirror]":
    """Each served repository's one mirror, by key.

    Raises:
        Forbidden: (on call) The repository is not served here.
    """
    served = {repository.key: repository for repository in settings.repositories}

    @cache
    def find(key: str) -> "Mirror":
        if key not in served:
            mend = "Add it to `repositories` in settings.toml, or start with `--repo`."
            raise Forbidden(f"The repository {key} is not served here.", mend=mend)
        return mirror(state, served[key], rules=settings.rules)

    return find


def identity(state: StateFolder) -> Ed25519PrivateKey:
    """This state folder's key, made when there is none."""
    return load_or_create(state.key)


def own_id(state: StateFolder) -> str:
    """The fingerprint of this state folder's key: who its executor and its sender are."""
    return fingerprint(identity(state).public_key())


def webhook_secret(state: StateFolder, environ: Mapping[str, str] = os.environ) -> bytes:
    """`PUSHTRAIN_WEBHOOK_SECRET`, else the content of `webhook.secret`, made at random when there is none."""
    if given := environ.get("PUSHTRAIN_WEBHOOK_SECRET"):
        return given.encode()
    try:
        with open(os.open(state.webhook_secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123  mode before content
            file.write(secrets.token_urlsafe(32))
    except FileExistsError:
        pass
    return state.webhook_secret.read_bytes().strip()


def running_card(state: StateFolder) -> ExecutorCard | None:
    """The card of the executor that serves this state folder now; None when none does."""
    try:
        return ExecutorCard.model_validate_json(state.card.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def local_host(host: str) -> str:
    """Where this machine reaches a server of its own that listens at `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  looked up, not bound


def local_url(card: ExecutorCard) -> str:
    """Where this machine's own executor is called: past the tunnel, which may be down and costs."""
    if not card.port:
        return card.public_url
    host = local_host(card.ip)
    return f"http://[{host}]:{card.port}" if ":" in host else f"http://{host}:{card.port}"


def executor_addresses(
    state: StateFolder, settings: Settings, cards: Sequence[ExecutorCard] = ()
) -> list[ExecutorAddress]:
    """Every executor known here: the one running, those in the settings, on rosters, trusted with an address.

    Args:
        state: Whose trusted keys count.
        settings: What is in force.
        cards: The cards of rosters that are believed (`sender.known`).
    """
    listed = [ExecutorAddress(url=one.public_url, public_key=one.public_key) for one in cards]
    card = running_card(state)
    own = [ExecutorAddress(url=local_url(card), public_key=card.public_key)] if card else []
    trusted = [
        ExecutorAddress(url=entry.url, public_key=entry.public_key)
        for entry in Trusted(state.trusted).entries()
        if entry.url
    ]
    no = distrusted(state) | heirs(state).keys()
    known: dict[str, ExecutorAddress] = {}
    for address in (*own, *settings.sender.executors, *listed, *trusted):
        if address in own or not (no and fingerprint(parse_public(address.public_key)) in no):
            known.setdefault(address.public_key, address)
    return list(known.values())


def client_maker(state: StateFolder, settings: Settings) -> Callable[[ExecutorAddress], ExecutorClient]:
    """Makes clients that speak with this state folder's key; one for each address while that is the key."""
    ring = Ring(state.key)
    if ring().former:
        forget_former(state.key)

    @cache
    def make(address: ExecutorAddress, _: str) -> ExecutorClient:
        identity = ring()

        def met(card: ExecutorCard) -> None:
            if card.public_key != address.public_key and card.succession:
                follow(state, settings, card, url=address.url)

        return ExecutorClient(
            address.url,
            parse_public(address.public_key),
            identity.key,
            succession=header(identity.chain),
            met=met,
        )

    return lambda address: make(address, ring().id)


def executor_clients(state: StateFolder, settings: Settings) -> list[ExecutorClient]:
    """A client for every executor known here."""
    make = client_maker(state, settings)
    return [make(address) for address in executor_addresses(state, settings)]


def adapter(target: str, *arguments: object) -> Any:
    """Make the adapter named `module:Class`."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)(*arguments)
