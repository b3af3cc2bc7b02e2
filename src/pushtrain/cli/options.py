"""Options that many verbs share, defined once so that they read the same everywhere."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from pushtrain.core.wire.bodies import MAX_RUNS


def _some(_type: object, value: int) -> None:
    if not 1 <= value <= MAX_RUNS:
        raise ValueError(f"Must be from 1 to {MAX_RUNS}.")


State = Annotated[
    Path | None,
    Parameter(name="--state", help="State folder; else PUSHTRAIN_STATE, else ~/.local/state/pushtrain."),
]
"""`*, state: State = None` — resolve with `wiring.settings.open_state(state)`."""

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON for scripts instead of text.")]
"""`*, json: Json = False`."""

Limit = Annotated[int, Parameter(name=["--limit", "-n"], validator=_some)]
"""`*, limit: Limit = 20` — as many rows as an executor tells of at once, at most."""

Repo = Annotated[
    tuple[str, ...],
    Parameter(name="--repo", negative="", help="Remote of a repository; may be given several times."),
]
"""`*, repo: Repo = ()`."""

MinIsolation = Literal["container", "sandbox", "confined", "user", "none"] | None
"""`min_isolation: MinIsolation = None` — the levels of the rule of this name."""

Network = Literal["internet", "full", "fetch-only", "none"] | None
"""`network: Network = None` — what the rule of this name takes."""

TunnelName = Literal["auto", "none", "ngrok", "ssh", "static"] | None
"""`tunnel: TunnelName = None` — the names that the setting `tunnel` takes."""
