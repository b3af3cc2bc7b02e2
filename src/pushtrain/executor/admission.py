"""Who may come in: keys that the owner authorised, keys that take their place, and whoever has an invitation.

Every method may be called from any thread, and may block for a moment.
"""

import logging
from collections.abc import Callable, Sequence

from pushtrain.core.wire.invitation import TRIES, Invitation
from pushtrain.core.wire.signing import fingerprint, parse_public
from pushtrain.plumbing.keys.authorized import Authorized, Grant
from pushtrain.plumbing.keys.invitations import Invitations
from pushtrain.plumbing.sqlite.store import Store

_log = logging.getLogger(__name__)


class Admission:
    """One executor's.

    Args:
        authorized: Whom it obeys.
        invitations: The invitations that its owner gave out.
        store: Where nonces are used up.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        authorized: Authorized,
        invitations: Invitations,
        store: Store,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._authorized = authorized
        self._invitations = invitations
        self._store = store
        self._clock = clock

    def grant(self, key_id: str) -> Grant | None:
        """What the key with this fingerprint may do; None when it is not authorised."""
        return self._authorized.lookup(key_id)

    def heir(self, key_id: str, statements: Sequence[str]) -> Grant | None:
        """What an unknown key may do, because one that is authorised says that it takes its place."""
        return self._authorized.heir(key_id, statements)

    def succeed(self, key_id: str, statements: Sequence[str]) -> None:
        """Write down durably that a key has taken another one's place. Raises StorageError."""
        grant = self._authorized.succeed(key_id, statements)
        if grant is not None:
            _log.info("%s has a new key: %s", grant.name or grant.was[-1], key_id)

    def invitation(self, name: str) -> Invitation | None:
        """The invitation that is called so, wherever it stands."""
        return self._invitations.find(name)

    def doubt(self, name: str) -> None:
        """Note that a request named an invitation and did not prove its code."""
        found = self._invitations.wrong(name, self._clock())
        if found is not None:
            _log.warning(
                "A request named an invitation and did not know its code (%d of %d): a machine between the "
                "two sides may change what they send.",
                found.wrong,
                TRIES,
            )

    def join(self, name: str, public_key: str, *, nonce: str, nonce_expires: float) -> Invitation:
        """Use up the nonce, authorise the key by the invitation; all durable before it returns.

        Raises:
            NotFound: It was withdrawn.
            Conflict, Unauthorized: It is good for nothing any more, or the nonce was used before.
            StorageError: It cannot be written.
        """
        self._store.use_nonce(nonce, nonce_expires)
        key = parse_public(public_key)
        joined = self._invitations.join(
            name,
            public_key,
            self._clock(),
            lambda invitation: self._authorized.allow(key, invitation.terms),
        )
        _log.info("%s joined: %s", joined.terms.name or "Somebody", fingerprint(key))
        return joined
