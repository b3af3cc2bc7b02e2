"""How two commits of one branch stand to each other, as git knows it."""

import contextlib

from pushtrain.core.errors import GitError, NotFound
from pushtrain.core.runs.precedence import Order
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.ports import Stop


def order(mirror: Mirror, ref: str, this: str, that: str, *, stop: Stop | None = None) -> Order:
    """How `this` stands to `that`; after a rewritten history the branch's tip decides.

    Raises:
        GitError: The remote does not answer; try again.
    """
    if this == that:
        return Order.UNKNOWN
    born = mirror.birth()
    try:
        return _order(mirror, ref, this, that, stop)
    except GitError as error:
        if not mirror.renewed(born, error, old=True, stop=stop):
            raise
    return _order(mirror, ref, this, that, stop)


def _order(mirror: Mirror, ref: str, this: str, that: str, stop: Stop | None) -> Order:
    for commit in (this, that):
        if not mirror.commits.has(commit):
            with contextlib.suppress(NotFound):  # rewritten, and let go by the host
                mirror.fetch(ref, commit, stop=stop)
    if mirror.commits.is_ancestor(that, this):
        return Order.NEWER
    if mirror.commits.is_ancestor(this, that):
        return Order.OLDER
    tip = mirror.ls_remote(stop=stop).get(ref, "")
    if not tip:
        return Order.UNKNOWN
    if tip not in {this, that}:
        mirror.fetch(ref, tip, stop=stop)
    current = (mirror.commits.is_ancestor(this, tip), mirror.commits.is_ancestor(that, tip))
    return {(True, False): Order.NEWER, (False, True): Order.OLDER}.get(current, Order.UNKNOWN)
