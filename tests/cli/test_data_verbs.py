"""`pushtrain data`: what is measured, what is written, what is no longer the same."""

import hashlib
import io
import json
import os
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data_server import FileServer, file_server
from pushtrain.cli.app import run
from pushtrain.core.errors import ConfigError, DataError, NotFound, UsageError
from pushtrain.testing import WorkRepository

CONTENT = b"a,b\n1,2\n"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
ONE_JOB = """\
# Ours.
[job.train]  # the only one
command = "python train.py"
results = ["*.pt"]  # what stays

[job.train.matrix]
lr = [0.1]
"""
TWO_JOBS = ONE_JOB + '\n[job.test]\ncommand = "pytest"\n'


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as found:
        yield found


@pytest.fixture(autouse=True)
def work(
    repository: Callable[..., WorkRepository], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> WorkRepository:
    found = repository()
    found.commit({"pushtrain.toml": ONE_JOB, "train.py": ""}, "Begin")
    monkeypatch.chdir(found.folder)
    monkeypatch.setenv("PUSHTRAIN_STATE", str(tmp_path / "state"))
    return found


def text() -> str:
    return Path("pushtrain.toml").read_text()


def entries(job: str = "train") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads(text())["job"][job].get("data", [])
    return found


def test_added_data_is_measured_and_written_and_all_else_stays(server: FileServer) -> None:
    url = server.serve("/sets/train.csv", CONTENT)
    assert run(["data", "add", url]) == 0
    assert entries() == [{"url": url, "sha256": DIGEST, "path": "data/train.csv"}]
    for line in ONE_JOB.splitlines():
        assert line in text().splitlines()


def test_entry_goes_below_the_others_with_their_comments(server: FileServer) -> None:
    before = 'data = [\n    # the first\n    {url = "https://h/a", path = "a"},  # small\n]\n'
    Path("pushtrain.toml").write_text(ONE_JOB.replace("results", before + "results"))
    assert run(["data", "add", server.serve("/b.csv", CONTENT), "--path", "in/b.csv"]) == 0
    assert [one["path"] for one in entries()] == ["a", "in/b.csv"]
    assert "    # the first\n" in text()
    assert "# small\n" in text()


@pytest.mark.parametrize("form", ["data = []\n", "", 'data = [{url = "https://h/a", path = "a"}]\n'])
def test_every_form_of_the_list_takes_an_entry(server: FileServer, form: str) -> None:
    Path("pushtrain.toml").write_text(ONE_JOB.replace("results", form + "results"))
    assert run(["data", "add", server.serve("/b.csv", CONTENT)]) == 0
    assert entries()[-1]["path"] == "data/b.csv"
    assert run(["data", "add", server.serve("/c.csv", CONTENT)]) == 0
    assert entries()[-1]["path"] == "data/c.csv"


def test_known_url_gets_the_new_digest_and_keeps_its_place(server: FileServer) -> None:
    url = server.serve("/a.csv", b"old")
    run(["data", "add", url, "--path", "here.csv"])
    server.serve("/a.csv", CONTENT, etag='"two"')
    assert run(["data", "add", url]) == 0
    assert entries() == [{"url": url, "sha256": DIGEST, "path": "here.csv"}]


def test_archive_is_measured_packed_and_tried(server: FileServer) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("x", "y")
    url = server.serve("/images.zip", out.getvalue())
    assert run(["data", "add", url, "--unpack"]) == 0
    digest = hashlib.sha256(out.getvalue()).hexdigest()
    assert entries() == [{"url": url, "sha256": digest, "path": "data/images", "unpack": True}]
    assert run(["data", "add", server.serve("/no.zip", b"no"), "--unpack"]) == DataError.exit_code
    assert len(entries()) == 1


def test_folder_is_measured_by_its_manifest(server: FileServer) -> None:
    listing = f"{DIGEST}  a.csv\n".encode()
    server.serve("/set/SHA256SUMS", listing)
    server.serve("/set/a.csv", CONTENT)
    url = server.url + "/set/"
    assert run(["data", "add", url, "--manifest", "SHA256SUMS"]) == 0
    digest = hashlib.sha256(listing).hexdigest()
    assert entries() == [{"url": url, "sha256": digest, "path": "data/set", "manifest": "SHA256SUMS"}]


def test_job_must_be_said_where_there_are_several(server: FileServer) -> None:
    Path("pushtrain.toml").write_text(TWO_JOBS)
    url = server.serve("/a.csv", CONTENT)
    assert run(["data", "add", url]) == UsageError.exit_code
    assert run(["data", "add", url, "--job", "tset"]) == NotFound.exit_code
    assert run(["data", "add", url, "--job", "test"]) == 0
    assert len(entries("test")) == 1
    assert not entries("train")


def test_what_would_break_the_file_is_refused_before_anything_is_fetched(server: FileServer) -> None:
    url = server.serve("/a.csv", CONTENT)
    for args in ([url, "--path", "../out"], ["ftp://h/x"], [server.url + "/folder/"]):
        assert run(["data", "add", *args]) == ConfigError.exit_code
    assert text() == ONE_JOB
    assert not server.asked


def test_failed_download_leaves_the_file_alone(server: FileServer) -> None:
    assert run(["data", "add", server.url + "/absent"]) == DataError.exit_code
    assert text() == ONE_JOB


def test_without_a_job_file_the_mend_is_named(server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    Path("pushtrain.toml").unlink()
    assert run(["data", "add", server.serve("/a", CONTENT)]) == NotFound.exit_code
    assert "pushtrain init" in capsys.readouterr().err


def test_json_tells_what_was_written(
    work: WorkRepository, server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    url = server.serve("/a.csv", CONTENT)
    assert run(["data", "add", url, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["job"], told["sha256"], told["size"], told["path"]) == ("train", DIGEST, 8, "data/a.csv")
    assert told["file"] == str(work.folder / "pushtrain.toml")


def test_measured_data_is_in_the_cache_of_this_machine(server: FileServer, tmp_path: Path) -> None:
    run(["data", "add", server.serve("/a.csv", CONTENT)])
    assert (tmp_path / "state" / "data" / DIGEST / "file").read_bytes() == CONTENT


def test_verify_says_what_is_the_same_and_what_is_not(
    server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("same", "changed", "gone"):
        run(["data", "add", server.serve(f"/{name}", CONTENT)])
    assert run(["data", "verify"]) == 0
    server.serve("/changed", b"other", etag='"two"')
    del server.files["/gone"]
    loose = server.serve("/loose", b"x")
    more = f'data = [\n    {{mount = "m", path = "m"}},\n    {{url = "{loose}", path = "loose"}},'
    Path("pushtrain.toml").write_text(text().replace("data = [", more))
    capsys.readouterr()
    code = run(["data", "verify", "--json"])
    said = capsys.readouterr()
    found = {one["path"]: one["status"] for one in json.loads(said.out)}
    assert found == {
        "loose": "not pinned",
        "data/same": "same",
        "data/changed": "differs",
        "data/gone": "failed",
    }
    assert code == DataError.exit_code
    assert "1 of 4 data sets are not what pushtrain.toml says, 1 could not be fetched." in said.err
    assert run(["data", "verify"]) == DataError.exit_code
    shown = "".join(capsys.readouterr().out.split())  # a narrow terminal folds it
    assert hashlib.sha256(b"other").hexdigest() in shown


def test_verify_advises_to_accept_only_what_was_there_to_be_accepted(
    server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["data", "add", server.serve("/a", CONTENT)])
    del server.files["/a"]
    assert run(["data", "verify"]) == DataError.exit_code
    said = " ".join(capsys.readouterr().err.split())
    assert "1 of 1 data sets could not be fetched." in said
    assert "data add" not in said
    server.serve("/a", b"other", etag='"two"')
    assert run(["data", "verify"]) == DataError.exit_code
    said = " ".join(capsys.readouterr().err.split())
    assert "1 of 1 data sets are not what pushtrain.toml says." in said
    assert "pushtrain data add http" in said


def test_verify_keeps_nothing_and_believes_no_cache(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(["data", "add", server.serve("/a", CONTENT)])
    server.asked.clear()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    assert run(["data", "verify"]) == 0
    assert server.paths() == ["/a"]
    assert os.listdir(tmp_path / "tmp") == []  # noqa: PTH208  a plain listing


def test_verify_of_one_job_looks_at_its_data_only(
    server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("pushtrain.toml").write_text(TWO_JOBS)
    run(["data", "add", server.serve("/a", CONTENT), "--job", "test"])
    server.serve("/a", b"other", etag='"two"')
    assert run(["data", "verify", "--job", "train"]) == 0
    assert "has data by URL" in capsys.readouterr().out
    assert run(["data", "verify", "--job", "test"]) == DataError.exit_code
