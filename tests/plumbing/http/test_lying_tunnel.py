"""A tunnel that lies: whatever it changes, drops, repeats or makes up, the caller does not believe it.

And one whose name belongs to somebody else by now: he hears nothing of what is wanted, also where he passes
every question on to the executor.
"""

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from asking import SENDER, STRANGER
from liar import Liar, Recorder, Said, lying
from pushtrain.core.errors import Conflict, Forbidden, NotFound, PushtrainError, Unauthorized, Unreachable
from pushtrain.core.lifecycle import Exited, Prepared, Published
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.jobspec import DataSource, JobSpec
from pushtrain.core.values.run import Artifact
from pushtrain.core.values.states import Reason
from pushtrain.core.wire.bodies import ErrorBody
from pushtrain.core.wire.frames import CapacityFrame, EndFrame, LogFrame, ViewFrame
from pushtrain.plumbing.http.client import PROOF, ExecutorClient
from pushtrain.testing import REPOSITORY, Clock, a_command, a_spec
from served import Served, served

LOG = b"".join(b"epoch %03d loss 0.%03d\n" % (number, 999 - number) for number in range(200))


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "state", slots=4) as one:
        one.authorized.add(SENDER.public_key(), name="ada")
        yield one


@pytest.fixture
def tunnel(executor: Served) -> Iterator[Liar]:
    with lying(executor.url) as liar:
        yield liar


@pytest.fixture
def client(executor: Served, tunnel: Liar) -> Iterator[ExecutorClient]:
    one = a_client(tunnel.url, executor)
    one.challenge()
    yield one
    one.close()


def a_client(
    url: str, executor: Served, key: Ed25519PrivateKey = SENDER, *, ticks: Clock | None = None
) -> ExecutorClient:
    return ExecutorClient(
        url,
        executor.key.public_key(),
        key,
        timeout=5,
        patience=0,
        clock=executor.clock,
        pause=lambda _: None,
        ticks=ticks or Clock(),
    )


def a_finished_run(executor: Served) -> str:
    """A run whose log is `LOG` and which left a file."""
    with lying(executor.url) as honest:
        run = a_client(honest.url, executor).send(a_command())
    _, folder = executor.claim()
    folder.log.write_bytes(LOG)
    folder.artifacts.mkdir(exist_ok=True)
    (folder.artifacts / "model.bin").write_bytes(b"weights" * 1000)
    executor.store.advance(run.id, Prepared())
    executor.store.advance(run.id, Exited(Reason.EXITED, 0))
    kept = Artifact(path="model.bin", size=7000, sha256="0" * 64, where="executor")
    executor.store.save_artifacts(run.id, [kept])
    executor.store.advance(run.id, Published("c" * 40, "x"))
    executor.tell(run.id)
    return run.id


def changed(before: str, after: str) -> Callable[[Said], Said]:
    return lambda said: said.but(before, after)


# --- answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(changed('"queued"', '"done"  '), id="another state"),
        pytest.param(lambda said: replace(said, status=200), id="another status"),
        pytest.param(lambda said: replace(said, body=said.body + b" "), id="a longer body"),
        pytest.param(lambda said: replace(said, body=b""), id="no body"),
        pytest.param(lambda said: said.without("signature"), id="no signature"),
        pytest.param(lambda said: said.without("content-digest"), id="no digest"),
        pytest.param(
            lambda said: replace(said, headers=[*said.headers, ("Content-Type", "text/html")]),
            id="another type",
        ),
        pytest.param(
            lambda said: replace(
                said,
                headers=[(name, value.replace("sha-256", "sha-512")) for name, value in said.headers],
            ),
            id="another digest's name",
        ),
    ],
)
def test_a_tunnel_cannot_change_an_acceptance(
    client: ExecutorClient, tunnel: Liar, lie: Callable[[Said], Said]
) -> None:
    tunnel.tell = lie
    with pytest.raises(Unreachable) as caught:
        client.send(a_command())
    assert caught.value.sent is True, "it may have been accepted all the same"


def test_a_tunnel_cannot_make_up_an_acceptance(
    client: ExecutorClient, executor: Served, tunnel: Liar
) -> None:
    """Neither from a refusal, nor from the acceptance of an earlier command or of the same one."""
    accepted: list[Said] = []

    def keep(said: Said) -> Said:
        accepted.append(said)
        return said

    tunnel.tell = keep
    client.send(a_command())
    again = a_command(request="again")
    for lie in (
        lambda said: replace(said, status=202),
        lambda _: accepted[0],
        lambda said: replace(accepted[0], headers=said.headers),
        lambda said: replace(said, status=202, body=accepted[0].body),
    ):
        tunnel.tell = lie
        executor.authorized.add(SENDER.public_key(), scopes=["read"])  # type: ignore[list-item]
        for command in (again, a_command()):
            with pytest.raises(Unreachable):
                client.send(command)
    assert len(executor.store.runs()) == 1


def test_a_tunnel_cannot_make_up_a_refusal(client: ExecutorClient, tunnel: Liar) -> None:
    """A made-up refusal would send a run to a second executor while the first one runs it."""
    for error in (Forbidden("No."), Conflict("No."), NotFound("No."), Unauthorized("No.")):
        body = ErrorBody.of(error).model_dump_json().encode()
        tunnel.tell = lambda said, status=error.status, body=body: replace(said, status=status, body=body)  # type: ignore[misc]
        with pytest.raises(Unreachable) as caught:
            client.send(a_command())
        assert caught.value.sent is True


@pytest.mark.parametrize("ask", ["view", "log", "runs", "release", "cancel", "challenge"])
def test_a_tunnel_cannot_change_what_is_told_of_a_run(
    executor: Served, tunnel: Liar, client: ExecutorClient, ask: str
) -> None:
    run_id = a_finished_run(executor)
    queued = client.send(a_command(request="waits"))
    asks: dict[str, Callable[[], object]] = {
        "view": lambda: client.view(run_id),
        "log": lambda: client.log(run_id),
        "runs": client.runs,
        "release": lambda: client.release(queued.id, 0),
        "cancel": lambda: client.cancel(queued.id),
        "challenge": client.challenge,
    }
    tunnel.tell = lambda said: replace(said, body=said.body[:-1] + b" }")
    with pytest.raises(Unreachable, match="not signed by its key"):
        asks[ask]()


def test_a_tunnel_cannot_change_a_piece_of_a_log_or_tell_another_one(
    executor: Served, tunnel: Liar, client: ExecutorClient
) -> None:
    run_id = a_finished_run(executor)
    said: list[Said] = []

    def keep(answer: Said) -> Said:
        said.append(answer)
        return answer

    tunnel.tell = keep
    assert client.log(run_id, limit=100).data == LOG[:100]
    assert client.log(run_id, offset=100, limit=100).data == LOG[100:200]
    lies: list[Callable[[Said], Said]] = [
        lambda answer: answer.but('"data":"ZXBvY2gg', '"data":"YmF0Y2gg'),  # batch, not epoch
        lambda _: said[1],  # another piece
        lambda _: said[0],  # the same piece, as it was told before
        lambda answer: answer.but('"complete":false', '"complete":true '),
    ]
    for lie in lies:
        tunnel.tell = lie
        with pytest.raises(Unreachable):
            client.log(run_id, limit=100)


def test_a_tunnel_cannot_change_a_file(
    executor: Served, tunnel: Liar, client: ExecutorClient, tmp_path: Path
) -> None:
    run_id = a_finished_run(executor)
    client.view(run_id)
    tunnel.tell = lambda said: replace(said, body=said.body.replace(b"weights", b"malware"))
    with pytest.raises(PushtrainError):
        client.artifact(run_id, "model.bin", tmp_path / "model.bin")
    assert not (tmp_path / "model.bin").exists()


def test_a_tunnel_cannot_change_what_is_asked(executor: Served, tunnel: Liar, client: ExecutorClient) -> None:
    other = b"x" * len(a_command().job.name)

    def rename(pairs: Any, body: bytes) -> Any:
        return pairs, body.replace(a_command().job.name.encode(), other)

    tunnel.change = rename
    with pytest.raises(Unauthorized):
        client.send(a_command())
    assert executor.store.runs() == []


def test_another_executors_answers_are_no_answers(tmp_path: Path, executor: Served, tunnel: Liar) -> None:
    with served(tmp_path / "other") as other:
        other.authorized.add(SENDER.public_key())
        tunnel.target = other.url
        with pytest.raises(Unreachable, match="is not the executor"):
            a_client(tunnel.url, executor).send(a_command())
        assert other.store.runs() == []


# --- streams ----------------------------------------------------------------------------------------------


def _touched(lines: Iterator[bytes]) -> Iterator[bytes]:
    return (line.replace(b'"data":"ZXBvY2gg', b'"data":"YmF0Y2gg') for line in lines)  # batch, not epoch


def _without_the_second(lines: Iterator[bytes]) -> Iterator[bytes]:
    return (line for number, line in enumerate(lines) if number != 1)


def _the_second_twice(lines: Iterator[bytes]) -> Iterator[bytes]:
    for number, line in enumerate(lines):
        yield from (line, line) if number == 1 else (line,)


def _swapped(lines: Iterator[bytes]) -> Iterator[bytes]:
    first, second, *rest = lines
    return iter([second, first, *rest])


def _unsigned(lines: Iterator[bytes]) -> Iterator[bytes]:
    for line in lines:
        document = json.loads(line)
        del document["signature"]
        yield json.dumps(document).encode() + b"\n"


def _made_up(lines: Iterator[bytes]) -> Iterator[bytes]:
    yield next(lines)
    yield b'{"kind":"log","attempt":1,"offset":0,"data":"eA","next_offset":1,"complete":true}\n'
    yield from lines


def _cut(lines: Iterator[bytes]) -> Iterator[bytes]:
    return (line for line in lines if b'"kind":"end"' not in line)


@pytest.mark.parametrize(
    "lie", [_touched, _without_the_second, _the_second_twice, _swapped, _unsigned, _made_up, _cut]
)
def test_a_tunnel_cannot_touch_a_live_log(
    executor: Served, tunnel: Liar, client: ExecutorClient, lie: Callable[[Iterator[bytes]], Iterator[bytes]]
) -> None:
    run_id = a_finished_run(executor)
    honest = list(client.follow(run_id))
    assert b"".join(frame.data for frame in honest if isinstance(frame, LogFrame)) == LOG
    tunnel.lines = lie
    believed: list[LogFrame | ViewFrame | EndFrame] = []
    with pytest.raises(Unreachable):
        believed.extend(client.follow(run_id))
    for frame in believed:
        assert frame in honest, "nothing was believed that the executor had not said"


def test_a_tunnel_cannot_answer_with_the_stream_of_another_request(
    executor: Served, tunnel: Liar, client: ExecutorClient
) -> None:
    run_id = a_finished_run(executor)
    kept: list[bytes] = []

    def keep(lines: Iterator[bytes]) -> Iterator[bytes]:
        for line in lines:
            kept.append(line)
            yield line

    tunnel.lines = keep
    list(client.follow(run_id))
    tunnel.lines = lambda _: iter(kept)
    with pytest.raises(Unreachable, match="damaged"):
        list(client.follow(run_id))


def test_a_tunnel_cannot_make_an_executor_look_free_or_busy(tunnel: Liar, client: ExecutorClient) -> None:
    assert isinstance(next(client.events()), CapacityFrame)
    tunnel.lines = lambda lines: (line.replace(b'"free_slots":4', b'"free_slots":0') for line in lines)
    with pytest.raises(Unreachable, match="damaged"):
        next(client.events())


def test_a_tunnel_cannot_turn_an_answer_into_a_stream(
    executor: Served, tunnel: Liar, client: ExecutorClient
) -> None:
    run_id = a_finished_run(executor)
    tunnel.tell = lambda said: replace(
        said,
        headers=[
            (name, value.replace("pushtrain-stream", "pushtrain-response")) for name, value in said.headers
        ],
    )
    with pytest.raises(Unreachable, match="not signed by its key"):
        list(client.follow(run_id))


# --- whoever has the name now -----------------------------------------------------------------------------

SECRETS = a_command(
    job=JobSpec.model_validate(
        a_spec(
            command="python train.py --very-special",
            data=(DataSource(url="https://data.example/set?X-Sig=presigned", sha256="0" * 64, path="set"),),
        )
    )
)
NAMES = ("python", "very-special", "data.example", "presigned", REPOSITORY, "octo", "refs/heads")


def tells_nothing(heard: bytes, command: TrainCommand = SECRETS) -> bool:
    """Whether nothing of a command, its repository or its data is in these bytes."""
    words = [*NAMES, command.run_id, command.commit, command.run_id[:12], command.commit[:12]]
    return not any(word.encode() in heard for word in words)


def test_the_words_are_in_a_command() -> None:
    """Else the tests below would see nothing."""
    assert not tells_nothing(SECRETS.model_dump_json().encode())


ANSWERS = {
    "nothing": b"",
    "not found": b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno",
    "an unsigned acceptance": b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n{}",
    "the wish to hear more": b"HTTP/1.1 401 No\r\nwww-authenticate: Basic\r\ncontent-length: 0\r\n\r\n",
    "an upgrade": b"HTTP/1.1 426 Upgrade Required\r\nupgrade: h2c\r\ncontent-length: 0\r\n\r\n",
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_recycled_tunnel_hears_nothing_of_a_command(executor: Served, answer: str) -> None:
    with Recorder(ANSWERS[answer]) as recorder:
        client = a_client(recorder.url, executor)
        asks: list[Callable[[], object]] = [
            lambda: client.send(SECRETS),
            lambda: client.runs(find=SECRETS.commit, repository=REPOSITORY),
            lambda: client.view(SECRETS.run_id),
            lambda: client.log(SECRETS.run_id),
            lambda: client.cancel(SECRETS.run_id),
            lambda: client.release(SECRETS.run_id, 0),
            lambda: next(client.follow(SECRETS.run_id)),
            lambda: next(client.events()),
        ]
        for ask in asks:
            with pytest.raises(Unreachable) as caught:
                ask()
            assert caught.value.sent is False, "the run may go elsewhere"
        assert set(recorder.asked) == {"POST /v1/challenge"}
        assert tells_nothing(recorder.heard)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(executor: Served, status: int) -> None:
    with Recorder(b"") as elsewhere:
        answer = (
            f"HTTP/1.1 {status} x\r\nlocation: {elsewhere.url}/v1/runs\r\ncontent-length: 0\r\n\r\n".encode()
        )
        with Recorder(answer) as recorder:
            client = a_client(recorder.url, executor)
            with pytest.raises(Unreachable):
                client.send(SECRETS)
            client._proven_at = client._ticks()  # as if it had been itself until a moment ago
            with pytest.raises(Unreachable):
                client.send(SECRETS)
        assert (elsewhere.visits, elsewhere.heard) == (0, b"")


@pytest.fixture
def recycled(executor: Served, tunnel: Liar, monkeypatch: pytest.MonkeyPatch) -> str:
    """The old name of the executor's tunnel: it leads to somebody who passes everything on."""
    executor.service.url = "https://new-name.example"
    real = socket.getaddrinfo

    def resolve(host: Any, *rest: Any, **more: Any) -> Any:
        return real("127.0.0.1" if host == "old-name.example" else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return tunnel.url.replace("127.0.0.1", "old-name.example")


def test_whoever_passes_the_challenge_on_to_the_executor_hears_nothing_else(
    executor: Served, tunnel: Liar, recycled: str
) -> None:
    client = a_client(recycled, executor)
    with pytest.raises(
        Unreachable, match=r"not at home at http://old-name\.example:\d+: .*new-name"
    ) as caught:
        client.send(SECRETS)
    assert caught.value.sent is False
    assert tunnel.asked == ["POST /v1/challenge"]
    assert tells_nothing(b"\n".join(tunnel.heard))
    assert executor.store.runs() == []


def test_he_cannot_change_the_address_that_the_executor_says(
    executor: Served, tunnel: Liar, recycled: str
) -> None:
    tunnel.tell = lambda said: replace(
        said, body=said.body.replace(b"https://new-name.example", recycled.encode())
    )
    with pytest.raises(Unreachable, match="not signed by its key"):
        a_client(recycled, executor).send(SECRETS)
    assert tells_nothing(b"\n".join(tunnel.heard))


def test_the_number_of_the_newest_card_is_part_of_what_the_executor_proves(
    executor: Served, tunnel: Liar
) -> None:
    """A copy of an executor that was left behind, with its key, says an older number."""
    executor.state.card_number.write_text("4\n")
    client = a_client(tunnel.url, executor)
    client.expect(4)
    client.challenge()
    client.expect(5)
    client.expect(3)
    with pytest.raises(Unreachable, match="card number 4, and its card number 5 was seen"):
        client.challenge()
    with pytest.raises(Unreachable, match="card number 5 was seen"):
        client.send(SECRETS)
    executor.state.card_number.write_text("5\n")
    assert client.send(SECRETS).state == "queued"


def test_a_proof_is_good_for_seconds_only(executor: Served, tunnel: Liar) -> None:
    assert PROOF <= 10
    ticks = Clock()
    client = a_client(tunnel.url, executor, ticks=ticks)
    client.send(SECRETS)
    client.view(SECRETS.run_id)
    ticks.advance(PROOF)
    client.view(SECRETS.run_id)
    assert tunnel.asked.count("POST /v1/challenge") == 1
    ticks.advance(0.1)
    with Recorder(ANSWERS["not found"]) as recorder:
        client._connection._pool.clear()
        client._connection.url = recorder.url
        with pytest.raises(Unreachable):
            client.send(SECRETS)
        assert tells_nothing(recorder.heard)
        assert recorder.asked == ["POST /v1/challenge"]


def test_an_executor_answers_only_for_its_own_key(executor: Served, tunnel: Liar) -> None:
    """Asked in another's name it proves nothing to anybody, and says nothing of itself."""
    client = ExecutorClient(
        tunnel.url, STRANGER.public_key(), SENDER, timeout=5, clock=executor.clock, patience=0
    )
    told: list[Said] = []

    def keep(said: Said) -> Said:
        told.append(said)
        return said

    tunnel.tell = keep
    with pytest.raises(Unreachable, match="is not the executor"):
        client.challenge()
    assert told[0].status == 401
    assert b"lab-1" not in told[0].body


def test_a_stranger_is_told_nothing_by_a_challenge(executor: Served, tunnel: Liar) -> None:
    told: list[Said] = []

    def keep(said: Said) -> Said:
        told.append(said)
        return said

    tunnel.tell = keep
    with pytest.raises(Unauthorized):
        a_client(tunnel.url, executor, STRANGER).challenge()
    assert b"lab-1" not in told[0].body
    assert REPOSITORY.encode() not in told[0].body
