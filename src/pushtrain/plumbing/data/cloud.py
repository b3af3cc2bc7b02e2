"""Files in object stores (`s3://`, `gs://`, `az://`): an `Opener` for `plumbing.data.download`.

Needs the `cloud` extra. Credentials, and the server that they go to, are those of the executor's own
environment (`AWS_…`, `GOOGLE_…`, `AZURE_…`), never a job's; a job gives a bucket's name and a path, and
comes here only where the owner lends the credentials (`core.owner.lent`).
"""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from pushtrain.core.errors import DataError
from pushtrain.plumbing.data.download import Ask, Interrupted, Opener, Restart, Stream, Version

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES: Final = frozenset({"s3", "gs", "az"})
_CHUNK: Final = 1024 * 1024


class Cloud:
    """Connections to object stores."""

    def __init__(self) -> None:
        self._stores: dict[str, ObjectStore] = {}

    def opener(self, scheme: str, bucket: str, path: str) -> Opener:
        """How to get an object.

        Args:
            scheme: `s3`, `gs` or `az`.
            bucket: A name and nothing else, as `core.owner.lent.bucket` reads it.
            path: The object's, not quoted.

        Raises:
            DataError: The extra is not installed, or no object is named.
        """
        root = f"{scheme}://{bucket}"
        if not path:
            raise DataError(f"{root} names no object.", mend="Write s3://BUCKET/PATH.")
        if root not in self._stores:
            self._stores[root] = _store(root)
        store = self._stores[root]
        return lambda ask: _open(store, path, f"{root}/{path}", ask)


def _store(root: str) -> "ObjectStore":
    try:
        from obstore import store
    except ImportError as error:
        raise DataError(
            f"{root} needs an extra that is not installed on the executor.",
            mend="Install it there: `pip install 'pushtrain[cloud]'`.",
        ) from error
    try:
        # Plain http is for an own server on the lab's network, where its owner has said so.
        plain = os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true"
        return store.from_url(root, client_options={"timeout": timedelta(hours=24), "allow_http": plain})
    except Exception as error:  # the library raises its own kinds, and ValueError for a bad URL
        raise DataError(f"{root} cannot be opened: {_said(error)}.", mend="Check the URL.") from error


@contextlib.contextmanager
def _open(store: "ObjectStore", path: str, url: str, ask: Ask) -> Iterator[Stream]:
    import obstore
    from obstore import exceptions as kinds

    options: dict[str, Any] = {}
    if ask.offset:
        options["range"] = {"offset": ask.offset}
        if ask.version.etag:
            options["if_match"] = ask.version.etag
    elif ask.known.etag:
        options["if_none_match"] = ask.known.etag
    try:
        found = obstore.get(store, path, options=options or None)  # type: ignore[arg-type]
    except kinds.NotModifiedError:
        yield Stream(ask.known, iter(()), unchanged=True)
        return
    except kinds.PreconditionError as error:
        raise Restart("the object has changed since it was begun") from error
    except FileNotFoundError as error:  # obstore's NotFoundError is one
        raise DataError(f"{url} does not exist.", mend="Check the URL.") from error
    except (kinds.PermissionDeniedError, kinds.UnauthenticatedError) as error:
        raise DataError(
            f"{url} was refused.", mend="Give the executor's environment credentials that may read it."
        ) from error
    except kinds.BaseError as error:
        raise Interrupted(_said(error)) from error
    version = Version(found.meta.get("e_tag") or "")
    yield Stream(version, _chunks(found), start=found.range[0], size=found.meta["size"])


def _chunks(found: Any) -> Iterator[bytes]:
    from obstore import exceptions as kinds

    try:
        yield from map(bytes, found.stream(min_chunk_size=_CHUNK))
    except kinds.BaseError as error:
        raise Interrupted(_said(error)) from error


def _said(error: Exception) -> str:
    """The first line of an error; the rest is the library's own structure."""
    return (str(error).strip().splitlines() or ["no reason given"])[0][:200].rstrip(".")
