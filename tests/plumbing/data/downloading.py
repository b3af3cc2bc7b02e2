"""A download as an executor makes it, and a server that says what a test wants: for tests of attacks."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from data_server import FileServer, Handler, Served
from pushtrain.core.owner.rules import Rules
from pushtrain.core.values.jobspec import DataSource
from pushtrain.core.values.run import Fetched
from pushtrain.plumbing.data.supply import fetch
from pushtrain.plumbing.data.terms import Terms, of_rules
from pushtrain.plumbing.disk.cache import Cache

CONTENT = b"training data\n" * 1000


def get(
    cache: Cache,
    url: str,
    *hosts: str,
    terms: Terms | None = None,
    environ: Mapping[str, str] | None = None,
    **fields: object,
) -> tuple[Path, Fetched]:
    """Fetch as an executor does whose owner lists these hosts."""
    source = DataSource.model_validate({"url": url, "path": "data", **fields})
    terms = terms or of_rules(Rules(allow_data_hosts=hosts))
    return fetch(
        source,
        cache=cache,
        mounts={},
        report=lambda *_: None,
        stop=lambda: None,
        terms=terms,
        environ=environ or {},
    )


def port_of(server: FileServer) -> int:
    return int(server.url.rpartition(":")[2])


def raw(*parts: bytes, wait: threading.Event | None = None) -> Callable[[Handler, Served], bool]:
    """Send these bytes as they are; then wait to be told, and hang up."""

    def fault(handler: Handler, _: Served) -> bool:
        try:
            for part in parts:
                handler.wfile.write(part)
            handler.wfile.flush()
            if wait is not None:
                wait.wait(30)
        except OSError:
            pass
        handler.close_connection = True
        return True

    return fault
