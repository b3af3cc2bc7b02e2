"""What callers may ask of an executor: one function a route, from a verified request to an answer.

Nothing here is reached before the request's signature held. Scopes and repositories are checked first, then
the query and the body, then the executor is asked. A run that does not concern the caller is not found.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol
from urllib.parse import parse_qsl

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from pushtrain.core.errors import Forbidden, NotFound, UsageError
from pushtrain.core.runs.gpustate import GpuRun, MachineGpus
from pushtrain.core.runs.usage import LONGEST_LEDGER, Usage
from pushtrain.core.text import strictjson
from pushtrain.core.text.queries import shown_run
from pushtrain.core.values.card import Capacity, Challenge, ExecutorCard
from pushtrain.core.values.command import TrainCommand, run_id
from pushtrain.core.values.run import Run, RunView
from pushtrain.core.values.value import Value
from pushtrain.core.wire.bodies import BYTES, JSON, LINES, MAX_LOG, MAX_PIECE, MAX_RUNS, RunList
from pushtrain.core.wire.signing import IDEMPOTENCY, KEPT, MAX_SKEW, Message, Signed
from pushtrain.executor.admission import Admission
from pushtrain.executor.api.events import Listening
from pushtrain.executor.api.stream import Reading
from pushtrain.executor.runs.shown import Shown
from pushtrain.plumbing.keys.authorized import Grant, Scope
from pushtrain.plumbing.keys.identity import Identity

_FAR: Final = 2**53
_RUN_ID: Final = re.compile(r"[0-9a-f]{32}")
_DIGITS: Final = re.compile(r"[0-9]{1,16}")


class Service(Protocol):
    """What the door needs of the executor. Every method may be called from any thread and may block."""

    @property
    def key(self) -> Ed25519PrivateKey:
        """The executor's identity; signs every answer."""

    @property
    def admission(self) -> Admission:
        """Who may come in."""

    @property
    def shown(self) -> Shown:
        """Runs as they are shown."""

    @property
    def identity(self) -> Identity:
        """Who the executor is, and was."""

    def accept(
        self,
        command: TrainCommand,
        *,
        sender: str,
        raw: bytes,
        headers: Mapping[str, str],
        nonce: str,
        nonce_expires: float,
    ) -> tuple[Run, bool]:
        """Keep the command durably, its nonce in the same transaction; the run, and whether it is new.

        Raises:
            Forbidden: This executor does not serve the repository.
            ConfigError: It can never run such a job here.
            Busy, Unauthorized, StorageError: As the store's `accept`.
        """

    def cancel(
        self, run_id: str, *, by: str, senders: Collection[str], nonce: str, nonce_expires: float
    ) -> Run:
        """Use up the nonce, then ask the run to end. Raises NotFound, Conflict, Unauthorized."""

    def release(
        self, run_id: str, *, by: Collection[str], attempt: int, nonce: str, nonce_expires: float
    ) -> Run:
        """Let a waiting run go. Raises NotFound, Forbidden, Conflict, Unauthorized; see the store's."""

    def card(self) -> ExecutorCard:
        """How a sender reaches and recognises this executor."""

    def capacity(self) -> Capacity:
        """What is free now."""

    def machine_gpus(self) -> MachineGpus:
        """What the GPUs do at this moment, and how they stand."""

    def usage(self, days: int) -> Usage:
        """What the ledger tells of the last days, today among them."""

    def unbegun_of(self, keys: Collection[str], limit: int) -> tuple[list[str], list[str]]:
        """Ids of the runs that keys sent and may take back now, and of those that may yet be so."""

    def challenge(self, nonce: str) -> Challenge:
        """Who this is and what it has free."""

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        """Call `changed(run_id)`, from any thread, whenever a run's view changes; returns how to stop it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What to answer; `stream` takes the place of the body."""

    status: int = 200
    body: bytes = b""
    kind: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: Reading | Listening | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A request whose signature held, and what its sender may do."""

    message: Message
    signed: Signed
    grant: Grant
    path: Mapping[str, str]
    service: Service
    key: Ed25519PrivateKey
    """The one of the executor's keys that was asked, and that answers."""

    def demand(self, scope: Scope, repository: str = "") -> None:
        """Raise Forbidden unless the sender's key may do this."""
        if not self.grant.allows(scope, repository):
            where = f" for {repository}" if repository else ""
            raise Forbidden(
                f"This key may not {scope}{where}.",
                mend="Ask the executor's owner to widen its line in authorized_keys.",
            )

    def run(self, scope: Scope) -> RunView:
        """The run that the path names, if the sender may do this to it.

        Raises:
            Forbidden: Its key lacks the scope.
            NotFound: There is no such run, or none that concerns the sender.
        """
        self.demand(scope)
        name = self.path["run_id"]
        view = self.service.shown.view(name) if _RUN_ID.fullmatch(name) else None
        if view is None or not self.grant.allows(scope, view.run.command.repository):
            raise NotFound(f"There is no run {name[:32]} here.", mend="`pushtrain ps` lists the runs.")
        return view

    def query(self, **defaults: str) -> dict[str, str]:
        """The query's parameters, each once at most, and none that is not among the defaults.

        Raises:
            UsageError: It has others.
        """
        try:
            found = parse_qsl(self.message.query, keep_blank_values=True, max_num_fields=16, errors="strict")
        except ValueError as error:
            raise UsageError("The query cannot be read.") from error
        given = dict(found)
        if len(given) != len(found) or not given.keys() <= defaults.keys():
            raise UsageError(f"The query may hold each of {', '.join(defaults) or 'nothing'}, once.")
        return defaults | given

    @property
    def senders(self) -> frozenset[str]:
        """The fingerprints under which the caller has sent, or may have."""
        return frozenset({self.signed.key_id, *self.grant.was})

    @property
    def nonce(self) -> str:
        """The nonce, unique among all senders."""
        return f"{self.signed.key_id}:{self.signed.nonce}"

    @property
    def nonce_expires(self) -> float:
        """When the signature is certainly too old to be used again."""
        return self.signed.expires + MAX_SKEW


Handler = Callable[[Call], Reply]


def challenge(call: Call) -> Reply:
    """`POST /v1/challenge`: prove who this is, by signing an answer to the caller's nonce."""
    call.query()
    return _json(call.service.challenge(call.signed.nonce))


def accept(call: Call) -> Reply:
    """`POST /v1/runs`: take a command on; the answer is sent once it is on the disk."""
    call.demand(Scope.SEND)
    call.query()
    command = _command(call.message)
    call.demand(Scope.SEND, command.repository)
    call.demand(Scope.SEND, command.job.results_to.repository or command.repository)
    if not call.grant.sends(command.ref):
        named = ", ".join(call.grant.branches)
        raise Forbidden(
            f"This key may only send commits of the branches {named}, not {command.ref}.",
            mend="Ask the executor's owner to widen its line in authorized_keys.",
        )
    run, _ = call.service.accept(
        command,
        sender=call.signed.key_id,
        raw=call.message.body,
        headers={name: value for name, value in call.message.headers.items() if name in KEPT},
        nonce=call.nonce,
        nonce_expires=call.nonce_expires,
    )
    return _json(_shown(run), status=202)


def runs(call: Call) -> Reply:
    """`GET /v1/runs`: runs that concern the caller, newest first."""
    call.demand(Scope.READ)
    query = call.query(find="", repository="", limit="50")
    limit = _number(query, "limit", MAX_RUNS)
    found = call.service.shown.runs(find=query["find"], repository=query["repository"], limit=limit)
    mine = [run for run in found if call.grant.allows(Scope.READ, run.command.repository)]
    return _json(RunList(runs=tuple(_shown(run) for run in mine)))


def view(call: Call) -> Reply:
    """`GET /v1/runs/ID`."""
    shown = call.run(Scope.READ)
    call.query()
    return _json(shown.model_copy(update={"run": _shown(shown.run)}))


def log(call: Call) -> Reply:
    """`GET /v1/runs/ID/log`: a piece of an attempt's log, the current one's unless another is named."""
    run = call.run(Scope.READ).run
    query = call.query(attempt="0", offset="0", limit=str(256 * 1024))
    attempt = _number(query, "attempt", _FAR) or run.attempt
    offset, limit = _number(query, "offset", _FAR), _number(query, "limit", MAX_LOG)
    return _json(call.service.shown.log_chunk(run.id, attempt, offset, limit))


def stream(call: Call) -> Reply:
    """`GET /v1/runs/ID/stream`: log and changes as they happen."""
    run = call.run(Scope.READ).run
    query = call.query(attempt="0", offset="0", until="end")
    if query["until"] not in {"end", "log"}:
        raise UsageError("`until` is neither `end` nor `log`.")
    reading = Reading(
        run_id=run.id,
        attempt=_number(query, "attempt", _FAR) or run.attempt or 1,
        offset=_number(query, "offset", _FAR),
        whole_log_is_enough=query["until"] == "log",
        request=call.signed.signature,
        reader=call.signed.key_id,
        key=call.key,
    )
    return Reply(kind=LINES, stream=reading)


def cancel(call: Call) -> Reply:
    """`POST /v1/runs/ID/cancel`."""
    run = call.run(Scope.CANCEL).run
    call.query()
    by = call.grant.name or call.signed.key_id
    owner = call.signed.key_id in {call.service.identity.id, *call.service.identity.was}
    done = call.service.cancel(
        run.id,
        by=by,
        senders=() if owner else call.senders,
        nonce=call.nonce,
        nonce_expires=call.nonce_expires,
    )
    return _json(_shown(done))


def release(call: Call) -> Reply:
    """`POST /v1/runs/ID/release`: the run goes to another executor; never, once it has started here."""
    run = call.run(Scope.SEND).run
    attempt = _number(call.query(attempt="0"), "attempt", _FAR)
    done = call.service.release(
        run.id,
        by=call.senders,
        attempt=attempt,
        nonce=call.nonce,
        nonce_expires=call.nonce_expires,
    )
    return _json(_shown(done))


def events(call: Call) -> Reply:
    """`GET /v1/events`: what is free, and how runs ended, as it happens."""
    call.demand(Scope.SEND)
    call.query()
    return Reply(kind=LINES, stream=Listening(call.signed.signature, call.signed.key_id, call.key))


def artifact(call: Call) -> Reply:
    """`GET /v1/runs/ID/artifacts/PATH`: a piece of a file that the executor keeps."""
    run = call.run(Scope.READ).run
    query = call.query(offset="0", limit=str(1024 * 1024))
    offset, limit = _number(query, "offset", _FAR), _number(query, "limit", MAX_PIECE)
    return Reply(body=call.service.shown.artifact_piece(run.id, call.path["path"], offset, limit), kind=BYTES)


def usage(call: Call) -> Reply:
    """`GET /v1/usage`: who used how much here; when its owner was there, the owner alone is told."""
    call.demand(Scope.READ)
    told = call.service.usage(_number(call.query(days="30"), "days", LONGEST_LEDGER))
    mine = tuple(each for each in told.entries if call.grant.allows(Scope.READ, each.repository))
    ids = {each.sender for each in mine}
    names = {key: name for key, name in told.names.items() if key in ids}
    owner = call.signed.key_id in {call.service.identity.id, *call.service.identity.was}
    change = {"entries": mine, "names": names, "stood": told.stood if owner else ()}
    return _json(told.model_copy(update=change))


def gpus(call: Call) -> Reply:
    """`GET /v1/gpus`: what the GPUs do at this moment; runs that the key may not read have no name."""
    call.demand(Scope.READ)
    call.query()
    told = call.service.machine_gpus()
    states = []
    for state in told.gpus:
        runs = tuple(
            run if run.id and call.grant.allows(Scope.READ, run.repository) else GpuRun()
            for run in state.runs
        )
        states.append(state.model_copy(update={"runs": runs}))
    return _json(told.model_copy(update={"gpus": tuple(states)}))


_RUN: Final = "/v1/runs/{run_id}"
ROUTES: Final[Mapping[str, Mapping[str, Handler]]] = {
    "/v1/challenge": {"POST": challenge},
    "/v1/events": {"GET": events},
    "/v1/runs": {"GET": runs, "POST": accept},
    _RUN: {"GET": view},
    f"{_RUN}/log": {"GET": log},
    f"{_RUN}/stream": {"GET": stream},
    f"{_RUN}/cancel": {"POST": cancel},
    f"{_RUN}/release": {"POST": release},
    "/v1/usage": {"GET": usage},
    "/v1/gpus": {"GET": gpus},
    f"{_RUN}/artifacts/{{path:path}}": {"GET": artifact},
}
"""Every path that asks for a signature, and what each of its methods does."""


def _command(message: Message) -> TrainCommand:
    """The command in the body, which must be the one that its run id and its idempotency key name."""
    if message.headers.get("content-type") != JSON:
        raise UsageError(f"A command is sent as {JSON}.")
    strictjson.loads(message.body)
    try:
        command = TrainCommand.model_validate_json(message.body, strict=True)
        true_id = run_id(
            repository=command.repository,
            commit=command.commit,
            job=command.job.name,
            cell=command.job.cell,
            request=command.request,
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:200]
        raise UsageError(
            f"The body is no command: `{where}`: {first['msg'][:200]}.",
            mend="Sender and executor may be of different versions: `pushtrain --version` on both.",
        ) from error
    except ValueError as error:  # rfc8785: a number that JSON cannot say exactly
        raise UsageError(f"The matrix cell has no canonical form: {error}.") from error
    if not command.run_id == message.headers[IDEMPOTENCY] == true_id:
        raise UsageError("The run id is not that of this command.", mend="Send the command as it was made.")
    return command


def _json(value: Value, *, status: int = 200) -> Reply:
    return Reply(status, value.model_dump_json().encode())


def _shown(run: Run) -> Run:
    """The run without its claim's token and its data's queries, which are nobody's business."""
    return shown_run(run).model_copy(update={"token": ""})


def _number(query: Mapping[str, str], name: str, most: int) -> int:
    text = query[name]
    if not _DIGITS.fullmatch(text) or int(text) > most:
        raise UsageError(f"`{name}` is not a number from 0 to {most}.")
    return int(text)
