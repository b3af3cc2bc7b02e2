"""The executor's door: a real executor behind a real server, asked over real sockets."""

import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from asking import SENDER, STRANGER, ask, exchange, headers_for, send
from pushtrain.core.errors import NotFound, StorageError
from pushtrain.core.lifecycle import Exited, Prepared, Published
from pushtrain.core.values.jobspec import JobSpec
from pushtrain.core.values.run import Artifact, Run, RunView
from pushtrain.core.values.states import Reason
from pushtrain.core.wire.bodies import MAX_BODY
from pushtrain.core.wire.signing import content_digest, fingerprint
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.owner import drainfile
from pushtrain.testing import NOON, REPOSITORY, a_command, a_spec
from served import Served, served


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "state") as one:
        one.authorized.add(SENDER.public_key(), name="ada")
        yield one


def test_a_command_is_on_the_disk_before_it_is_accepted(executor: Served) -> None:
    answer = send(executor)
    assert (answer.status, answer.bound) == (202, True)
    run = Run.model_validate_json(answer.body)
    assert run == executor.store.run(a_command().run_id)
    assert run.sender == fingerprint(SENDER.public_key())


def test_the_command_is_kept_as_it_was_signed(executor: Served) -> None:
    command = a_command()
    body = command.model_dump_json().encode()
    headers = headers_for(executor, "POST", "/v1/runs", body=body, idempotency=command.run_id)
    exchange(executor, "POST", "/v1/runs", [*headers.items(), ("Cookie", "secret=1")], body)
    assert executor.store.command_as_received(command.run_id) == (body, headers)


def test_a_redelivered_command_is_the_same_run(executor: Served) -> None:
    first, second = send(executor), send(executor)
    assert (second.status, second.body) == (202, first.body)
    assert len(executor.store.runs()) == 1


def test_a_replayed_request_is_refused(executor: Served) -> None:
    command = a_command()
    body = command.model_dump_json().encode()
    headers = headers_for(executor, "POST", "/v1/runs", body=body, idempotency=command.run_id)
    assert exchange(executor, "POST", "/v1/runs", list(headers.items()), body).status == 202
    replayed = exchange(executor, "POST", "/v1/runs", list(headers.items()), body)
    assert (replayed.status, replayed.bound, replayed.error) == (401, True, "unauthorized")


def test_senders_do_not_use_up_each_others_nonces(executor: Served) -> None:
    executor.authorized.add(STRANGER.public_key())
    for key in (SENDER, STRANGER):
        command = a_command(request=key.public_key().public_bytes_raw().hex()[:16])
        answer = ask(
            executor,
            "POST",
            "/v1/runs",
            body=command.model_dump_json().encode(),
            idempotency=command.run_id,
            key=key,
            nonce="the-same-nonce-for-both",
        )
        assert answer.status == 202


def test_no_claims_token_leaves_the_executor(executor: Served) -> None:
    send(executor)
    run, _ = executor.claim()
    assert run.token
    for path in ("/v1/runs", f"/v1/runs/{run.id}"):
        assert run.token.encode() not in ask(executor, "GET", path).body
    assert run.token.encode() not in ask(executor, "POST", f"/v1/runs/{run.id}/cancel").body
    assert run.token.encode() not in send(executor).body


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"run_id": "0" * 32}, "not that of this command"),
        ({"commit": "f" * 40}, "not that of this command"),
        ({"version": 2}, "version"),
        ({"unknown": 1}, "unknown"),
        ({"ref": "main"}, "ref"),
        ({"run_id": None}, "run_id"),
        ({"job": {"name": "../x", "command": "true"}}, "job.name"),
        ({"job": {"name": "train", "command": 5}}, "job.command"),
        ({"job": {"name": "train", "command": "true", "timeout": "5"}}, "job.timeout"),
        ({"job": {"name": "train", "command": "true", "cell": {"n": 2**60}}}, "canonical form"),
    ],
)
def test_a_body_that_is_no_command_is_refused_and_says_where(
    executor: Served, change: dict[str, object], why: str
) -> None:
    document = a_command().model_dump(mode="json") | change
    answer = ask(
        executor, "POST", "/v1/runs", body=json.dumps(document).encode(), idempotency=a_command().run_id
    )
    assert (answer.status, answer.bound, answer.error) == (400, True, "usage")
    assert why in answer.told
    assert executor.store.runs() == []


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *((name, 1.7e308) for name in ("began_at", "seconds", "gpu_seconds", "joules")),
        *((name, 10**400) for name in ("attempt", "steps", "exit_code")),
        *((name, -1) for name in ("attempt", "began_at", "steps", "gpu_seconds")),
    ],
)
def test_a_number_that_no_attempt_ever_had_is_refused_at_the_door(
    executor: Served, name: str, number: float
) -> None:
    """What is told of attempts elsewhere is added up and shown here, when the run already holds cards."""
    told = {"attempt": 1, "executor": "lab", "began_at": 1, name: number}
    poison = {"attempt": 1, "where": "lfs", "sha256": "0" * 64, "size": 1, "segments": [told]}
    document = a_command().model_dump(mode="json") | {"attempt": 1, "checkpoint": poison}
    body = json.dumps(document).encode()
    answer = ask(executor, "POST", "/v1/runs", body=body, idempotency=a_command().run_id)
    assert (answer.status, answer.error) == (400, "usage")
    assert executor.store.runs() == []


@pytest.mark.parametrize(
    "body",
    [b"{", b'{"version":1,"version":1}', b'{"a":NaN}', b"[" * 5000, b'"\\ud800"', b"\xff\xfe", b"null", b"1"],
)
def test_a_body_that_is_not_json_of_one_meaning_is_refused(executor: Served, body: bytes) -> None:
    answer = ask(executor, "POST", "/v1/runs", body=body)
    assert (answer.status, answer.bound, answer.error) == (400, True, "usage")


def test_the_idempotency_key_must_be_the_run_id(executor: Served) -> None:
    answer = ask(
        executor, "POST", "/v1/runs", body=a_command().model_dump_json().encode(), idempotency="other"
    )
    assert answer.status == 400


def test_a_command_of_another_content_type_is_refused(executor: Served) -> None:
    command = a_command()
    answer = ask(
        executor,
        "POST",
        "/v1/runs",
        body=command.model_dump_json().encode(),
        idempotency=command.run_id,
        kind="text/plain",
    )
    assert (answer.status, answer.bound) == (400, True)


def test_a_command_without_a_body_is_refused(executor: Served) -> None:
    assert ask(executor, "POST", "/v1/runs").status == 400


def test_a_repository_that_is_not_served_is_forbidden(executor: Served) -> None:
    answer = send(executor, a_command(repository="github.com/octo/other"))
    assert (answer.status, answer.bound, answer.error) == (403, True, "forbidden")


def test_a_job_that_can_never_run_here_is_refused(executor: Served) -> None:
    spec = JobSpec.model_validate(a_spec().model_dump() | {"resources": {"gpus": 4}})
    answer = send(executor, a_command(job=spec))
    assert (answer.status, answer.error) == (422, "config")


def test_a_full_queue_is_busy(tmp_path: Path) -> None:
    with served(tmp_path / "full", queue_limit=1) as executor:
        executor.authorized.add(SENDER.public_key())
        assert send(executor).status == 202
        answer = send(executor, a_command(request="again"))
        assert (answer.status, answer.bound, answer.error) == (429, True, "busy")
        assert answer.headers["retry-after"] == "10"
        assert b"1 runs wait already" in answer.body
        assert send(executor).status == 202, "the run that is known already is no further one"


def test_a_draining_executor_says_503_and_when_to_come_back(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "draining").create()
    drainfile.order(state.drain, since=NOON, timeout=None)
    with served(state.root) as executor:
        executor.authorized.add(SENDER.public_key())
        answer = send(executor)
        assert (answer.status, answer.bound, answer.error) == (503, True, "draining")
        assert answer.headers["retry-after"] == "60"
        assert executor.store.runs() == []


def test_healthz_says_nothing(executor: Served) -> None:
    answer = exchange(executor, "GET", "/healthz", [])
    assert (answer.status, answer.headers, answer.body) == (204, {}, b"")
    other = exchange(executor, "POST", "/healthz", [])
    assert (other.status, other.headers["allow"], other.body) == (405, "GET", b"")


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/run", "/v1/runs/", "/v2/runs", "/v1/runs/x/y", "/%F0%9F", "/V1/runs"]
)
def test_an_unknown_path_tells_nothing(executor: Served, path: str) -> None:
    unsigned = exchange(executor, "GET", path, [])
    assert (unsigned.status, unsigned.bound, unsigned.told) == (404, False, "There is nothing here.")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/v1/runs", "GET, POST"), ("/v1/challenge", "POST"), (f"/v1/runs/{'a' * 32}", "GET")],
)
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "DELETE", "PUT", "PATCH", "TRACE"])
def test_another_method_is_answered_with_what_is_allowed(
    executor: Served, path: str, allowed: str, method: str
) -> None:
    answer = exchange(executor, method, path, [])
    assert (answer.status, answer.headers["allow"]) == (405, allowed)


def test_answers_are_for_nobodys_cache(executor: Served) -> None:
    assert ask(executor, "GET", "/v1/runs").headers["cache-control"] == "no-store, no-transform"


def test_a_body_over_the_limit_is_refused_unread(executor: Served) -> None:
    headers = headers_for(executor, "POST", "/v1/runs", body=b"x")
    answer = exchange(
        executor, "POST", "/v1/runs", [*headers.items(), ("content-length", str(MAX_BODY + 1))], b"x"
    )
    assert (answer.status, answer.bound, answer.error) == (413, True, "too-large")


def test_a_chunked_body_over_the_limit_is_refused(executor: Served) -> None:
    body = b"".join(b"10000\r\n" + b"x" * 65536 + b"\r\n" for _ in range(17)) + b"0\r\n\r\n"
    headers = headers_for(executor, "POST", "/v1/runs", body=b"x" * 65536 * 17)
    answer = exchange(
        executor, "POST", "/v1/runs", [*headers.items(), ("transfer-encoding", "chunked")], body
    )
    assert (answer.status, answer.bound, answer.error) == (413, True, "too-large")


def test_a_strangers_body_is_not_even_read(executor: Served) -> None:
    """He is answered before he has said it: no memory of ours is his to fill."""
    for headers in (
        [("content-length", "1000000")],
        [("transfer-encoding", "chunked")],
        [
            *headers_for(executor, "POST", "/v1/runs", body=b"x", key=STRANGER).items(),
            ("content-length", "9"),
        ],
    ):
        answer = exchange(executor, "POST", "/v1/runs", headers)
        assert (answer.status, answer.bound, answer.error) == (401, False, "unauthorized")


def test_a_chunked_body_is_read_like_any_other(executor: Served) -> None:
    command = a_command()
    body = command.model_dump_json().encode()
    headers = headers_for(executor, "POST", "/v1/runs", body=body, idempotency=command.run_id)
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:10], body[10:])) + b"0\r\n\r\n"
    answer = exchange(
        executor, "POST", "/v1/runs", [*headers.items(), ("transfer-encoding", "chunked")], chunked
    )
    assert answer.status == 202


def test_a_command_of_nearly_a_mebibyte_is_accepted(executor: Served) -> None:
    assert send(executor, a_command(job=a_spec(command=("x" * (MAX_BODY // 11 - 300),) * 11))).status == 202


def test_an_encoded_body_is_refused(executor: Served) -> None:
    headers = headers_for(executor, "POST", "/v1/runs", body=b"x")
    answer = exchange(executor, "POST", "/v1/runs", [*headers.items(), ("Content-Encoding", "gzip")], b"x")
    assert (answer.status, answer.bound, answer.error) == (415, True, "usage")


def test_a_request_that_breaks_off_leaves_nothing(executor: Served) -> None:
    with socket.create_connection(("127.0.0.1", executor.port)) as caller:
        caller.sendall(b"POST /v1/runs HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
    assert send(executor).status == 202


@pytest.mark.parametrize(
    "query",
    [
        "limit=x",
        "limit=-1",
        "limit=1001",
        "limit=1e3",
        "limit=",
        "limit=1&limit=1",
        "unknown=1",
        "find=%FF",
        "limit=%31;",
    ],
)
def test_a_query_that_is_not_understood_is_refused(executor: Served, query: str) -> None:
    answer = ask(executor, "GET", "/v1/runs", query)
    assert (answer.status, answer.bound, answer.error) == (400, True, "usage")


def test_trouble_with_the_disk_is_a_signed_503(executor: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("The disk is full.", mend="Make room.")

    monkeypatch.setattr(executor.store, "accept", full)
    answer = send(executor)
    assert (answer.status, answer.bound, answer.error) == (503, True, "storage")


def test_what_nobody_expected_is_a_signed_500_that_tells_nothing(
    executor: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("secret-detail")

    monkeypatch.setattr(executor.store, "accept", broken)
    with caplog.at_level(logging.ERROR):
        answer = send(executor)
    assert (answer.status, answer.bound, answer.error) == (500, True, "error")
    assert b"secret-detail" not in answer.body
    assert "secret-detail" in caplog.text
    assert "Traceback" in caplog.text


def test_runs_are_found_as_people_name_them(executor: Served) -> None:
    command = a_command()
    send(executor, command)
    send(executor, a_command(commit="b" * 40, ref="refs/heads/side"))
    for text in (command.run_id[:8], command.commit[:7], "main"):
        found = json.loads(ask(executor, "GET", "/v1/runs", f"find={text}").body)["runs"]
        assert [run["id"] for run in found] == [command.run_id]
    assert len(json.loads(ask(executor, "GET", "/v1/runs", f"repository={REPOSITORY}").body)["runs"]) == 2
    assert len(json.loads(ask(executor, "GET", "/v1/runs", "limit=1").body)["runs"]) == 1


def test_a_run_is_shown_with_its_history(executor: Served) -> None:
    send(executor)
    view = RunView.model_validate_json(ask(executor, "GET", f"/v1/runs/{a_command().run_id}").body)
    assert [event.kind for event in view.events] == ["accepted"]


@pytest.mark.parametrize("name", ["0" * 32, "x", "0" * 31, "A" * 32, "...", "%FF", "a%20b"])
def test_a_run_that_is_not_there_is_not_found(executor: Served, name: str) -> None:
    answer = ask(executor, "GET", f"/v1/runs/{name}")
    assert (answer.status, answer.bound) == (404, True)


def test_a_log_is_read_from_any_offset(executor: Served) -> None:
    send(executor)
    path = f"/v1/runs/{a_command().run_id}/log"
    assert json.loads(ask(executor, "GET", path).body)["data"] == ""
    run, folder = executor.claim()
    folder.log.write_bytes(b"one\ntwo\n\xff")
    chunk = json.loads(ask(executor, "GET", path, "offset=4&limit=4").body)
    assert chunk == {
        "attempt": 1,
        "offset": 4,
        "data": "dHdvCg==",
        "next_offset": 8,
        "complete": False,
        "elided": False,
    }
    executor.store.advance(run.id, Prepared())
    executor.store.advance(run.id, Exited(Reason.EXITED, 0))
    assert json.loads(ask(executor, "GET", path, "offset=8").body)["complete"] is True


def test_a_run_is_cancelled_once_for_one_request(executor: Served) -> None:
    send(executor)
    path = f"/v1/runs/{a_command().run_id}/cancel"
    headers = list(headers_for(executor, "POST", path).items())
    answer = exchange(executor, "POST", path, headers)
    assert (answer.status, json.loads(answer.body)["outcome"]) == (200, "cancelled")
    assert exchange(executor, "POST", path, headers).status == 401
    assert "by ada" in executor.store.events(a_command().run_id)[-1].detail


def test_cancelling_after_the_end_is_a_conflict(executor: Served) -> None:
    send(executor)
    run, _ = executor.claim()
    executor.store.advance(run.id, Prepared())
    executor.store.advance(run.id, Exited(Reason.EXITED, 0))
    answer = ask(executor, "POST", f"/v1/runs/{run.id}/cancel")
    assert (answer.status, answer.error) == (409, "conflict")


def test_a_file_is_read_in_pieces_and_nothing_outside_it(executor: Served) -> None:
    send(executor)
    run, folder = executor.claim()
    (folder.artifacts / "deep").mkdir(parents=True)
    (folder.artifacts / "deep" / "a b.bin").write_bytes(bytes(range(256)))
    (folder.artifacts / "unlisted").write_bytes(b"x")
    executor.store.advance(run.id, Prepared())
    executor.store.advance(run.id, Exited(Reason.EXITED, 0))
    executor.store.save_artifacts(
        run.id, [Artifact(path="deep/a b.bin", size=256, sha256="0" * 64, where="executor", until=NOON)]
    )
    base = f"/v1/runs/{run.id}/artifacts"
    piece = ask(executor, "GET", f"{base}/deep/a%20b.bin", "offset=250&limit=100")
    assert (piece.status, piece.bound, piece.body) == (200, True, bytes(range(250, 256)))
    assert piece.headers["content-type"] == "application/octet-stream"
    assert ask(executor, "GET", f"{base}/deep/a%20b.bin", "offset=256").body == b""
    for path in ("unlisted", "deep", "", "etc/passwd"):
        assert ask(executor, "GET", f"{base}/{path}").status == 404, path
    for path in ("../log", "%2e%2e/log.txt", "deep/../unlisted", "/etc/passwd", "..%2flog.txt", "deep%00"):
        assert ask(executor, "GET", f"{base}/{path}").status == 400, path
    for path in ("../log", "/etc/passwd", "deep/../unlisted", "deep\0"):
        with pytest.raises(NotFound):
            executor.service.shown.artifact_path(run.id, path)


def test_a_challenge_proves_the_key_and_tells_what_is_free(executor: Served) -> None:
    answer = ask(executor, "POST", "/v1/challenge", nonce="a-nonce-of-the-senders")
    assert (answer.status, answer.bound) == (200, True)
    document = json.loads(answer.body)
    assert document["nonce"] == "a-nonce-of-the-senders"
    assert document["capacity"]["free_slots"] == 1
    assert executor.store.runs() == []


def test_a_finished_run_shows_its_results(executor: Served) -> None:
    send(executor)
    run, _ = executor.claim()
    executor.store.advance(run.id, Prepared())
    executor.store.advance(run.id, Exited(Reason.EXITED, 0))
    executor.store.advance(run.id, Published("c" * 40, "runs/train/x"))
    view = RunView.model_validate_json(ask(executor, "GET", f"/v1/runs/{run.id}").body)
    assert view.run.result_commit == "c" * 40


def test_a_digest_of_something_else_is_no_way_in(executor: Served) -> None:
    command = a_command()
    body = command.model_dump_json().encode()
    headers = headers_for(executor, "POST", "/v1/runs", body=body, idempotency=command.run_id)
    other = body.replace(b"hello", b"evil!")
    for digest in (headers["content-digest"], content_digest(other)):
        answer = exchange(
            executor, "POST", "/v1/runs", list((headers | {"content-digest": digest}).items()), other
        )
        assert (answer.status, answer.bound) == (401, False)
    assert executor.store.runs() == []
