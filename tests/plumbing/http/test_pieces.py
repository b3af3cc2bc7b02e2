"""Files that the executor keeps are brought here whole, over lines that break."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from breaking import SENDER, Cuts

from pushtrain.core.errors import (
    DataError,
    NotFound,
    StorageError,
)
from pushtrain.core.lifecycle import Exited, Prepared
from pushtrain.core.values.run import Artifact
from pushtrain.core.values.states import Reason
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.testing import a_command
from served import Served, served


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "state") as one:
        one.authorized.add(SENDER.public_key(), name="ada")
        yield one


@pytest.fixture
def client(executor: Served) -> Iterator[ExecutorClient]:
    one = ExecutorClient(executor.url, executor.key.public_key(), SENDER, clock=executor.clock)
    yield one
    one.close()


@pytest.fixture
def cut(executor: Served) -> Iterator[Callable[[int], Cuts]]:
    made: list[Cuts] = []

    def make(after: int) -> Cuts:
        made.append(Cuts(executor.port, after))
        return made[-1]

    yield make
    for one in made:
        one.close()


CONTENT = hashlib.shake_256(b"model").digest(1_000_003)


def _left(executor: Served, client: ExecutorClient, content: bytes = CONTENT, sha256: str = "") -> str:
    run = client.send(a_command())
    _, folder = executor.claim()
    folder.artifacts.mkdir(exist_ok=True)
    (folder.artifacts / "model ü.bin").write_bytes(content)
    executor.store.advance(run.id, Prepared())
    executor.store.advance(run.id, Exited(Reason.EXITED, 0))
    file = Artifact(
        path="model ü.bin",
        size=len(content),
        sha256=sha256 or hashlib.sha256(content).hexdigest(),
        where="executor",
    )
    executor.store.save_artifacts(
        run.id, [file, Artifact(path="in-git", size=1, sha256="0" * 64, where="git")]
    )
    return run.id


@pytest.mark.parametrize("content", [CONTENT, b"", b"x"])
def test_a_file_is_fetched_whole_and_verified(
    executor: Served, client: ExecutorClient, tmp_path: Path, content: bytes
) -> None:
    run_id = _left(executor, client, content)
    told: list[tuple[str, int, int]] = []
    into = tmp_path / "into"
    into.mkdir()
    file = client.artifact(run_id, "model ü.bin", into / "model.bin", lambda *each: told.append(each))
    assert (into / "model.bin").read_bytes() == content
    assert [each.name for each in into.iterdir()] == ["model.bin"]
    assert told[-1] == ("model ü.bin", len(content), file.size)


def test_a_fetch_goes_on_where_an_earlier_one_stopped(
    executor: Served, client: ExecutorClient, tmp_path: Path
) -> None:
    run_id = _left(executor, client)
    part = tmp_path / f".model.bin.{hashlib.sha256(CONTENT).hexdigest()[:16]}.part"
    part.write_bytes(CONTENT[:900_000])
    told: list[int] = []
    client.artifact(run_id, "model ü.bin", tmp_path / "model.bin", lambda _, done, __: told.append(done))
    assert told == [900_000, len(CONTENT)]
    assert (tmp_path / "model.bin").read_bytes() == CONTENT


def test_a_file_arrives_over_a_line_that_keeps_breaking(
    executor: Served,
    client: ExecutorClient,
    tmp_path: Path,
    cut: Callable[[int], Cuts],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pushtrain.plumbing.http.client.MAX_PIECE", 50_000)
    run_id = _left(executor, client)
    line = cut(200_000)
    pauses: list[float] = []
    reader = ExecutorClient(
        line.url, executor.key.public_key(), SENDER, clock=executor.clock, pause=pauses.append
    )
    reader.artifact(run_id, "model ü.bin", tmp_path / "model.bin")
    assert (tmp_path / "model.bin").read_bytes() == CONTENT
    assert line.connections > 4


def test_a_file_that_is_not_what_the_run_left_is_never_put_there(
    executor: Served, client: ExecutorClient, tmp_path: Path
) -> None:
    run_id = _left(executor, client, sha256="0" * 64)
    (tmp_path / "model.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match="is damaged"):
        client.artifact(run_id, "model ü.bin", tmp_path / "model.bin")
    assert (tmp_path / "model.bin").read_bytes() == b"mine"
    assert list(tmp_path.glob(".*.part")) == []


def test_a_file_that_became_shorter_is_said_to_end_too_early(
    executor: Served, client: ExecutorClient, tmp_path: Path
) -> None:
    run_id = _left(executor, client)
    path = RunDir.of(executor.state.runs, run_id, 1).artifacts / "model ü.bin"
    path.write_bytes(CONTENT[:10])
    with pytest.raises(DataError, match="ends too early"):
        client.artifact(run_id, "model ü.bin", tmp_path / "model.bin")


def test_a_part_that_is_too_long_is_begun_anew(
    executor: Served, client: ExecutorClient, tmp_path: Path
) -> None:
    run_id = _left(executor, client)
    part = tmp_path / f".model.bin.{hashlib.sha256(CONTENT).hexdigest()[:16]}.part"
    part.write_bytes(CONTENT + b"more")
    client.artifact(run_id, "model ü.bin", tmp_path / "model.bin")
    assert (tmp_path / "model.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("path", ["in-git", "none", "../log"])
def test_a_file_that_the_executor_does_not_keep_is_not_found(
    executor: Served, client: ExecutorClient, tmp_path: Path, path: str
) -> None:
    run_id = _left(executor, client)
    with pytest.raises(NotFound, match="has no file"):
        client.artifact(run_id, path, tmp_path / "x")


def test_a_folder_that_cannot_be_written_is_a_storage_error(
    executor: Served, client: ExecutorClient, tmp_path: Path
) -> None:
    run_id = _left(executor, client)
    with pytest.raises(StorageError, match="cannot be written: No such file"):
        client.artifact(run_id, "model ü.bin", tmp_path / "none" / "x")
