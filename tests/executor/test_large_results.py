"""Where a run's large files go: they stay here, or go to Git LFS or to an object store."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from publishing_line import KEY, RESULTS, Line, one, published

from pushtrain.core.errors import UsageError
from pushtrain.core.values.jobspec import ResultsTarget
from pushtrain.core.values.run import Artifact
from pushtrain.executor.results import artifacts
from pushtrain.executor.results.publish import Publishable
from pushtrain.plumbing.git import lfs
from pushtrain.testing import NOON


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


def test_large_files_stay_here_and_what_went_to_git_is_let_go(line: Line) -> None:
    item = line.item({"big": b"x" * 2000, "small": b"y"})
    done = one(line.publisher(git_file_limit=1000, keep_artifacts_days=2), item)
    assert {file.path: file.where for file in done.artifacts} == {"big": "executor", "small": "git"}
    assert done.artifacts[0].until == NOON + 2 * 86400
    assert item.folder is not None
    assert [path.name for path in item.folder.artifacts.iterdir()] == ["big"]


@pytest.mark.slow
def test_fifty_files_of_twenty_megabytes_all_go_into_git(line: Line) -> None:
    publisher = line.publisher()
    item = line.item({f"f{number}.bin": os.urandom(400_000) for number in range(50)})
    done = one(publisher, item)
    assert sum(file.where == "git" for file in done.artifacts) == 50


def test_large_files_may_go_to_git_lfs(line: Line) -> None:
    content = os.urandom(3000)
    item = line.item({"a b.bin": content, "small": b"1"}, results_to=ResultsTarget(artifacts="lfs"))
    outcome = line.publisher(git_file_limit=1000).publish([item])[item.run.id]
    if not lfs.installed():
        assert isinstance(outcome, artifacts.UploadError)
        assert "apt install git-lfs" in outcome.mend
        return
    done = published(outcome)
    assert {file.path: file.where for file in done.artifacts} == {"a b.bin": "lfs", "small": "git"}
    pointer = lfs.parse(line.show(done, "files/a b.bin").encode() + b"\n")
    assert pointer is not None
    assert pointer.size == 3000
    stored = line.origin / "lfs" / "objects" / pointer.oid[:2] / pointer.oid[2:4] / pointer.oid
    assert stored.read_bytes() == content
    attributes = line.show(done, ".gitattributes")
    assert attributes == '"files/a b.bin" filter=lfs diff=lfs merge=lfs -text'
    out = line.mirror("reader").fetch(f"refs/heads/{RESULTS}", done.commit)
    assert out
    line.mirror("reader").checkout(done.commit, line.folder / "out")
    assert (line.folder / "out" / done.path / "files" / "a b.bin").read_bytes() == content


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], bytes]]:
    from obstore.store import from_url

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    import urllib3

    assert urllib3.request("PUT", f"http://{host}:{port}/models").status == 200
    store = from_url("s3://models")
    yield lambda key: bytes(store.get(key).bytes())
    server.stop()


@pytest.mark.slow
def test_large_files_may_go_to_an_object_store(
    line: Line, s3: Callable[[str], bytes], tmp_path: Path
) -> None:
    content = os.urandom(3000)
    target = ResultsTarget(artifacts="s3://models/from pushtrain".replace(" ", "-"))
    item = line.item({"a b#1.bin": content}, results_to=target)
    pieces: list[int] = []
    done = one(line.publisher(git_file_limit=1000, pace=pieces.append), item)
    assert sum(pieces) == 3000, "it goes at the owner's pace"
    (file,) = done.artifacts
    assert file.where == "url"
    assert file.url.startswith(f"s3://models/from-pushtrain/{KEY}/runs/train/")
    assert s3(f"from-pushtrain/{KEY}/{done.path}/a b#1.bin") == content
    artifacts.from_url(file, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    with pytest.raises(
        artifacts.UploadError, match="more than the 2999 bytes"
    ):  # a results branch may tell lies
        artifacts.from_url(file.model_copy(update={"size": 2999}), tmp_path / "more")
    assert [path.name for path in tmp_path.iterdir() if "more" in path.name] == []
    # Killed before the push, it is brought there again without harm.
    again = artifacts.to_url(target.artifacts, done.path, [], tmp_path, stop=None)
    assert again == []


def test_a_store_that_refuses_is_tried_again_and_then_does_without(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    elsewhere = ResultsTarget.model_construct(artifacts="ftp://models")
    item = line.item({"big": b"x" * 2000}, results_to=elsewhere)
    publisher = line.publisher(git_file_limit=1000)
    assert isinstance(publisher.publish([item])[item.run.id], UsageError)
    tired = Publishable(item.run.model_copy(update={"publish_tries": 3}), item.attempts, item.folder)
    done = one(publisher, tired)
    assert done.artifacts[0].where == "executor"


def test_what_comes_from_a_store_is_paced_in_pieces_small_enough_to_be_stopped_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stores give ten megabytes at once: at the least bandwidth a cancel was heard of after minutes."""
    import obstore
    from obstore.store import MemoryStore

    store, content, pieces = MemoryStore(), os.urandom(3_000_000), list[int]()
    obstore.put(store, "x", content)
    monkeypatch.setattr(artifacts, "_store", lambda _: (store, "x"))
    file = Artifact(path="x", size=len(content), sha256="0" * 64, where="url", url="s3://models/x")
    artifacts.from_url(file, tmp_path / "x", pace=pieces.append)
    assert (tmp_path / "x").read_bytes() == content
    assert sum(pieces) == len(content)
    assert max(pieces) <= 256 * 1024
