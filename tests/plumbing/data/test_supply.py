import gzip
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_server import FileServer, Served, becomes, cut, file_server, misplaced, stalled, status
from pushtrain.core.errors import Cancelled, DataAway, DataError, StorageError
from pushtrain.core.values.jobspec import DataSource
from pushtrain.core.values.run import Fetched
from pushtrain.plumbing.data import download as downloading
from pushtrain.plumbing.data.doors import rewrite
from pushtrain.plumbing.data.supply import attach, fetch
from pushtrain.plumbing.data.terms import OWN
from pushtrain.plumbing.disk.cache import Cache

CONTENT = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()

CHILD = """
import pathlib, sys
from pushtrain.core.values.jobspec import DataSource
from pushtrain.plumbing.disk.cache import Cache
from pushtrain.plumbing.data.supply import fetch
from pushtrain.plumbing.data.terms import OWN
root, url, digest = sys.argv[1:]
path, got = fetch(DataSource(url=url, sha256=digest or None, path="x"), cache=Cache(pathlib.Path(root)),
    mounts={}, report=lambda *_: None, stop=lambda: None, terms=OWN)
print(path.stat().st_size, got.cached)
"""


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as found:
        yield found


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "data")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(downloading, "_pause", lambda seconds, _: waits.append(seconds))
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return waits


def get(cache: Cache, url: str = "", **fields: object) -> tuple[Path, Fetched]:
    source = DataSource.model_validate({"url": url, "path": "data", **fields})
    return fetch(
        source, cache=cache, mounts={}, report=lambda *_: None, stop=lambda: None, terms=OWN, environ={}
    )


# --- one pinned file --------------------------------------------------------------------------------------


def test_pinned_file_is_fetched_once_and_found_by_its_digest(server: FileServer, cache: Cache) -> None:
    url = server.serve("/a", CONTENT)
    path, fetched = get(cache, url, sha256=DIGEST)
    assert path.read_bytes() == CONTENT
    assert (fetched.sha256, fetched.size, fetched.pinned, fetched.cached) == (
        DIGEST,
        len(CONTENT),
        True,
        False,
    )
    assert get(cache, url, sha256=DIGEST)[1].cached
    assert get(cache, server.url + "/elsewhere", sha256=DIGEST)[0] == path
    assert server.paths() == ["/a"]


def test_cached_file_cannot_be_written(server: FileServer, cache: Cache) -> None:
    path, _ = get(cache, server.serve("/a", CONTENT), sha256=DIGEST)
    assert not path.stat().st_mode & 0o222
    assert not path.parent.stat().st_mode & 0o222


def test_progress_is_reported_in_bytes(server: FileServer, cache: Cache) -> None:
    seen: list[tuple[int, int]] = []
    source = DataSource(url=server.serve("/a", CONTENT) + "?token=secret", sha256=DIGEST, path="x")

    def report(text: str, done: int, total: int) -> None:
        assert "secret" not in text
        seen.append((done, total))

    fetch(source, cache=cache, mounts={}, report=report, stop=lambda: None, terms=OWN)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)


def test_wrong_digest_names_both_and_leaves_nothing(server: FileServer, cache: Cache) -> None:
    url = server.serve("/a", CONTENT)
    with pytest.raises(DataError) as caught:
        get(cache, url + "?token=secret", sha256="0" * 64)
    assert "0" * 64 in str(caught.value)
    assert DIGEST in str(caught.value)
    assert f"pushtrain data add {url}" in caught.value.mend
    assert "secret" not in str(caught.value)
    assert cache.get("0" * 64) is None
    assert not list(cache.root.glob("**/part"))


def test_empty_file_is_a_file(server: FileServer, cache: Cache) -> None:
    path, fetched = get(cache, server.serve("/a", b""), sha256=digest_of(b""))
    assert (path.read_bytes(), fetched.size) == (b"", 0)


# --- interruptions ----------------------------------------------------------------------------------------


def test_cut_connection_is_resumed_where_it_broke(server: FileServer, cache: Cache) -> None:
    url = server.serve("/a", CONTENT, cut(400_000), cut(300_000))
    assert get(cache, url, sha256=DIGEST)[0].read_bytes() == CONTENT
    assert [one.headers.get("range") for one in server.asked] == [None, "bytes=400000-", "bytes=700000-"]
    assert server.asked[1].headers["if-range"] == '"one"'


def test_server_without_ranges_is_begun_anew(server: FileServer, cache: Cache) -> None:
    url = server.serve("/a", CONTENT, cut(400_000), ranges=False)
    assert get(cache, url, sha256=DIGEST)[0].read_bytes() == CONTENT


def test_wrong_range_is_not_joined(server: FileServer, cache: Cache) -> None:
    url = server.serve("/a", CONTENT, cut(400_000), misplaced(300_000))
    assert get(cache, url)[0].read_bytes() == CONTENT
    assert [one.headers.get("range") for one in server.asked] == [None, "bytes=400000-", None]


@pytest.mark.parametrize("pinned", [True, False])
def test_file_that_changed_half_way_is_begun_anew(server: FileServer, cache: Cache, pinned: bool) -> None:
    other = CONTENT[::-1]
    url = server.serve("/a", CONTENT, cut(400_000), becomes(other, '"two"'))
    path, fetched = get(cache, url, sha256=digest_of(other) if pinned else None)
    assert path.read_bytes() == other
    assert fetched.sha256 == digest_of(other)


def test_server_that_ignores_the_condition_of_a_range_is_noticed(server: FileServer, cache: Cache) -> None:
    def ignoring(handler: object, served: object) -> bool:
        served.content, served.etag = CONTENT[::-1], '"two"'  # type: ignore[attr-defined]
        return misplaced(400_000)(handler, served)  # type: ignore[arg-type]

    url = server.serve("/a", CONTENT, cut(400_000), ignoring)
    assert get(cache, url)[0].read_bytes() == CONTENT[::-1]


def test_unsatisfiable_range_is_begun_anew(server: FileServer, cache: Cache) -> None:
    url = server.serve("/a", CONTENT, cut(400_000), status(416))
    assert get(cache, url)[0].read_bytes() == CONTENT


def test_pinned_file_is_resumed_even_without_etag_and_judged_by_its_digest(
    server: FileServer, cache: Cache
) -> None:
    url = server.serve("/a", CONTENT, cut(400_000), etag="")
    assert get(cache, url, sha256=DIGEST)[0].read_bytes() == CONTENT
    assert server.asked[1].headers["range"] == "bytes=400000-"
    other = CONTENT[::-1]
    url = server.serve("/b", CONTENT, cut(400_000), becomes(other, ""), etag="")
    assert get(cache, url, sha256=digest_of(other))[0].read_bytes() == other


def test_errors_that_pass_are_tried_again_with_growing_pauses(
    server: FileServer, cache: Cache, no_waiting: list[float]
) -> None:
    url = server.serve("/a", CONTENT, status(500), status(503, Retry_After="7"), status(429))
    assert get(cache, url, sha256=DIGEST)[0].read_bytes() == CONTENT
    assert no_waiting[1] == 7
    assert no_waiting[0] < no_waiting[2]


def test_error_that_stays_is_an_error_in_the_end(server: FileServer, cache: Cache) -> None:
    url = server.serve("/a", CONTENT, *[status(503)] * 50)
    with pytest.raises(DataAway, match="the server answered 503; 6 tries"):
        get(cache, url)
    assert len(server.asked) == 6


def test_server_that_never_gets_further_is_given_up(server: FileServer, cache: Cache) -> None:
    url = server.serve("/a", CONTENT, *[cut(1000)] * 50, etag="")
    with pytest.raises(DataAway, match="the connection closed early; 6 tries"):
        get(cache, url)
    assert len(server.asked) == 6


@pytest.mark.parametrize(("code", "mend"), [(404, "Check the URL"), (403, "data_credentials"), (418, "")])
def test_definite_refusals_are_not_tried_again(
    server: FileServer, cache: Cache, code: int, mend: str
) -> None:
    url = server.serve("/a", CONTENT, status(code))
    with pytest.raises(DataError, match=f"answered {code}") as caught:
        get(cache, url)
    assert mend in caught.value.mend
    assert len(server.asked) == 1


def test_nobody_listening_is_a_data_error(cache: Cache) -> None:
    with pytest.raises(DataAway, match=r"could not be fetched: .*[Rr]efused"):
        get(cache, "http://127.0.0.1:1/a")


@pytest.mark.parametrize(
    ("said", "kind"), [(socket.EAI_NONAME, DataError), (socket.EAI_AGAIN, DataAway)], ids=["none", "later"]
)
def test_a_name_that_does_not_exist_is_not_a_server_that_is_away(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, said: int, kind: type[DataError]
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(said, "the resolver's words")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(DataError, match="resolver's words") as caught:
        get(cache, "https://data.example/a")
    assert type(caught.value) is kind


def test_truncated_body_without_length_is_caught_by_the_digest(server: FileServer, cache: Cache) -> None:
    url = server.serve("/a", CONTENT, *[cut(1000)] * 50, length=False)
    with pytest.raises(DataError, match="expected sha256"):
        get(cache, url, sha256=DIGEST)


def test_killed_download_is_resumed_by_the_next_process(server: FileServer, cache: Cache) -> None:
    reached, go_on = threading.Event(), threading.Event()
    url = server.serve("/a", CONTENT, stalled(600_000, reached, go_on))
    with subprocess.Popen([sys.executable, "-c", CHILD, str(cache.root), url, DIGEST]) as child:
        assert reached.wait(20)
        part = cache.root / ".scratch" / DIGEST / "part"
        deadline = threading.Event()
        while not (part.exists() and part.stat().st_size > 100_000):
            assert not deadline.wait(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait(20)
    go_on.set()
    assert cache.get(DIGEST) is None
    begun = part.stat().st_size
    path, fetched = get(cache, url, sha256=DIGEST)
    assert path.read_bytes() == CONTENT
    assert not fetched.cached
    assert server.asked[-1].headers["range"] == f"bytes={begun}-"


def test_stop_ends_a_download_and_keeps_what_arrived(server: FileServer, cache: Cache) -> None:
    url = server.serve("/a", CONTENT)
    calls = iter(range(1000))

    def stop() -> None:
        if next(calls) == 4:
            raise Cancelled("The run was cancelled.")

    source = DataSource(url=url, sha256=DIGEST, path="x")
    with pytest.raises(Cancelled):
        fetch(source, cache=cache, mounts={}, report=lambda *_: None, stop=stop, terms=OWN)
    assert 0 < (cache.root / ".scratch" / DIGEST / "part").stat().st_size < len(CONTENT)
    assert get(cache, url, sha256=DIGEST)[0].read_bytes() == CONTENT
    assert server.asked[-1].headers["range"].startswith("bytes=")


@pytest.mark.parametrize("pinned", [True, False])
def test_two_runs_that_want_the_same_fetch_it_once(server: FileServer, cache: Cache, pinned: bool) -> None:
    reached, go_on = threading.Event(), threading.Event()
    url = server.serve("/a", CONTENT, stalled(1000, reached, go_on))
    argv = [sys.executable, "-c", CHILD, str(cache.root), url, DIGEST if pinned else ""]
    children = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert reached.wait(20)
    go_on.set()
    said = sorted(child.communicate(timeout=60)[0] for child in children)
    assert said == ["1048576 False\n", "1048576 True\n", "1048576 True\n"]
    bodies = [one for one in server.asked if "if-none-match" not in one.headers]
    assert len(bodies) == 1


@pytest.mark.parametrize(("total", "kind"), [(1 << 40, StorageError), (2000, DataError)])
def test_more_than_the_disk_can_hold_is_refused_before_it_is_fetched(
    server: FileServer, cache: Cache, monkeypatch: pytest.MonkeyPatch, total: int, kind: type[Exception]
) -> None:
    """There may be room later, unless it is more than the whole disk."""
    url = server.serve("/a", CONTENT)
    usage = type("Usage", (), {"free": 1000, "total": total})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(kind, match="has 1048576 bytes, and the executor's disk has 1000 free"):
        get(cache, url)


# --- not pinned -------------------------------------------------------------------------------------------


def test_unpinned_file_is_recorded_and_asked_for_with_a_condition(server: FileServer, cache: Cache) -> None:
    url = server.serve("/a", CONTENT)
    path, fetched = get(cache, url)
    assert (fetched.pinned, fetched.sha256, fetched.size, fetched.etag, fetched.cached) == (
        False,
        DIGEST,
        len(CONTENT),
        '"one"',
        False,
    )
    again, fetched = get(cache, url)
    assert (again, fetched.cached, fetched.sha256, fetched.etag) == (path, True, DIGEST, '"one"')
    assert server.asked[1].headers["if-none-match"] == '"one"'


def test_unpinned_file_that_changed_is_fetched_again(server: FileServer, cache: Cache) -> None:
    url = server.serve("/a", CONTENT)
    get(cache, url)
    server.serve("/a", b"new", etag='"two"')
    path, fetched = get(cache, url)
    assert (path.read_bytes(), fetched.cached) == (b"new", False)


def test_last_modified_serves_where_there_is_no_etag(server: FileServer, cache: Cache) -> None:
    date = "Wed, 21 Oct 2026 07:28:00 GMT"
    url = server.serve("/a", CONTENT, etag="", modified=date)
    get(cache, url)
    assert get(cache, url)[1].cached
    assert server.asked[1].headers["if-modified-since"] == date


def test_server_that_names_no_version_is_asked_in_full_each_time(server: FileServer, cache: Cache) -> None:
    url = server.serve("/a", CONTENT, etag="")
    get(cache, url)
    assert not get(cache, url)[1].cached
    assert get(cache, url, sha256=DIGEST)[1].cached


def test_evicted_file_is_not_asked_for_with_a_condition(server: FileServer, cache: Cache) -> None:
    url = server.serve("/a", CONTENT)
    get(cache, url)
    assert cache.remove(DIGEST)
    assert get(cache, url)[0].read_bytes() == CONTENT
    assert "if-none-match" not in server.asked[1].headers


def test_torn_note_only_costs_a_download(server: FileServer, cache: Cache) -> None:
    url = server.serve("/a", CONTENT)
    get(cache, url)
    for note in (cache.root / ".urls").iterdir():
        note.write_text('{"sha256": ')
    assert get(cache, url)[0].read_bytes() == CONTENT


# --- URLs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://h/x", "data:text/plain,x", "http:///x", "x/y", "ssh://h/x"]
)
def test_other_schemes_are_refused(cache: Cache, url: str) -> None:
    with pytest.raises(DataError, match=r"not an http|not a URL"):
        get(cache, url)


def test_url_with_a_password_is_refused_without_repeating_it(cache: Cache) -> None:
    with pytest.raises(DataError, match="user name or a password") as caught:
        get(cache, "https://me:hunter2@example.org/x")
    assert "hunter2" not in str(caught.value)


def test_redirects_are_followed_but_not_for_ever(server: FileServer, cache: Cache) -> None:
    server.serve("/b", CONTENT)
    url = server.serve("/a", b"", status(302, Location="/b"))
    assert get(cache, url, sha256=DIGEST)[0].read_bytes() == CONTENT
    loop = server.serve("/loop", b"", *[status(302, Location="/loop")] * 20)
    with pytest.raises(DataError, match="redirects more than 5 times"):
        get(cache, loop)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://u:p@127.0.0.1/"])
def test_redirect_to_what_is_no_plain_web_address_is_refused(
    server: FileServer, cache: Cache, target: str
) -> None:
    with pytest.raises(DataError, match=r"not an http|user name"):
        get(cache, server.serve("/a", b"", status(302, Location=target)))


def test_redirect_from_https_to_http_is_refused() -> None:
    from pushtrain.plumbing.data.web import _followed

    assert _followed("https://a/x", "https://b/y") == "https://b/y"
    assert _followed("http://a/x", "https://b/y") == "https://b/y"
    assert _followed("https://a/x", "/y") == "https://a/y"
    with pytest.raises(DataError, match="redirects from https to http://b/y"):
        _followed("https://a/x", "http://b/y?secret=1")


def test_proxy_of_the_environment_is_used_and_no_proxy_respected(
    server: FileServer, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A proxy is asked for absolute URLs; the server shows what it was asked.
    monkeypatch.setenv("http_proxy", server.url.replace("//", "//user:word@"))
    monkeypatch.setenv("no_proxy", "localhost")
    server.files["http://example.invalid/x"] = Served(b"x", etag="")
    assert get(cache, "http://example.invalid/x")[0].read_bytes() == b"x"
    assert server.asked[0].path == "http://example.invalid/x"
    assert server.asked[0].headers["proxy-authorization"] == "Basic dXNlcjp3b3Jk"
    url = server.serve("/a", CONTENT).replace("127.0.0.1", "localhost")
    assert get(cache, url)[0].read_bytes() == CONTENT
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(DataError, match="proxy of the kind socks5"):
        get(cache, "http://example.invalid/y")


def test_hugging_face_urls_become_https_ones() -> None:
    env: dict[str, str] = {}
    assert rewrite("hf://datasets/org/name@v1/dir/a b.csv", env) == (
        "https://huggingface.co/datasets/org/name/resolve/v1/dir/a b.csv"
    )
    assert rewrite("hf://org/name/model.bin", env) == "https://huggingface.co/org/name/resolve/main/model.bin"
    assert rewrite("hf://org/name@refs%2Fpr%2F1/x", env).endswith("/resolve/refs%2Fpr%2F1/x")
    assert rewrite("https://x/y", env) == "https://x/y"
    for wrong in ("hf://org", "hf://datasets/org/name", "hf://"):
        with pytest.raises(DataError, match="Hugging Face"):
            rewrite(wrong, env)


def test_hugging_face_file_is_fetched_by_its_endpoint(server: FileServer, cache: Cache) -> None:
    server.serve("/datasets/org/name/resolve/main/a.csv", CONTENT)
    source = DataSource(url="hf://datasets/org/name/a.csv", path="x")
    env = {"HF_ENDPOINT": server.url, "HF_TOKEN": "hf_secret"}
    path, _ = fetch(
        source, cache=cache, mounts={}, report=lambda *_: None, stop=lambda: None, terms=OWN, environ=env
    )
    assert path.read_bytes() == CONTENT
    assert "authorization" not in server.asked[0].headers, "a token never goes over plain http"


# --- archives ---------------------------------------------------------------------------------------------


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("deep/a.txt", "hello")
    return out.getvalue()


@pytest.mark.parametrize("pinned", [True, False])
def test_archive_is_unpacked_once_into_the_cache(server: FileServer, cache: Cache, pinned: bool) -> None:
    content = zipped()
    url = server.serve("/a.zip", content)
    sha256 = digest_of(content) if pinned else None
    path, fetched = get(cache, url, sha256=sha256, unpack=True)
    assert (path / "deep/a.txt").read_text() == "hello"
    assert (fetched.sha256, fetched.size, fetched.cached) == (digest_of(content), len(content), False)
    again, fetched = get(cache, url, sha256=sha256, unpack=True)
    assert (again, fetched.size, fetched.cached) == (path, len(content), True)
    assert len(server.asked) == (1 if pinned else 2)


def test_packed_form_is_the_first_to_be_evicted_and_not_fetched_for_it_again(
    server: FileServer, cache: Cache
) -> None:
    content = zipped()
    url = server.serve("/a.zip", content)
    get(cache, server.serve("/b", b"b"))
    get(cache, url, sha256=digest_of(content), unpack=True)
    assert cache.entries()[0].key == digest_of(content)
    assert cache.remove(digest_of(content))
    server.asked.clear()
    assert get(cache, url, sha256=digest_of(content), unpack=True)[1].cached
    assert not server.asked


def test_compressed_single_file_appears_as_a_file(server: FileServer, cache: Cache) -> None:
    packed = gzip.compress(CONTENT, mtime=0)
    url = server.serve("/a.csv.gz", packed)
    path, _ = get(cache, url, unpack=True)
    assert path.read_bytes() == CONTENT
    again, fetched = get(cache, url, unpack=True, sha256=digest_of(packed))
    assert (again, fetched.cached) == (path, True)


def test_bad_archive_leaves_no_unpacked_entry(server: FileServer, cache: Cache) -> None:
    url = server.serve("/a.zip", b"no archive")
    for _ in range(2):
        with pytest.raises(DataError, match="no zip, tar"):
            get(cache, url, unpack=True)
    assert [entry.key for entry in cache.entries()] == [digest_of(b"no archive")]


# --- folders by a manifest --------------------------------------------------------------------------------


def manifest(files: dict[str, bytes]) -> bytes:
    return "".join(f"{digest_of(content)}  {path}\n" for path, content in files.items()).encode()


def serve_folder(server: FileServer, files: dict[str, bytes]) -> tuple[str, bytes]:
    listing = manifest(files)
    server.serve("/d/SHA256SUMS", listing)
    for path, content in files.items():
        server.serve(f"/d/{path}", content)
    return server.url + "/d/", listing


def test_folder_is_fetched_by_its_manifest_each_file_verified(server: FileServer, cache: Cache) -> None:
    files = {f"part/{number}": str(number % 7).encode() * 100 for number in range(30)}
    url, listing = serve_folder(server, files)
    path, fetched = get(cache, url, manifest="SHA256SUMS", sha256=digest_of(listing))
    assert {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()} == files
    assert (fetched.size, fetched.sha256, fetched.pinned) == (3000, digest_of(listing), True)
    asked = len(server.asked)
    assert asked == 1 + 7, "the same bytes are fetched once"
    assert get(cache, url, manifest="SHA256SUMS", sha256=digest_of(listing))[1].cached
    assert len(server.asked) == asked


def test_folder_without_digest_is_verified_by_the_manifest_it_has(server: FileServer, cache: Cache) -> None:
    url, listing = serve_folder(server, {"a": b"1", "b": b"2"})
    _, fetched = get(cache, url, manifest="SHA256SUMS")
    assert (fetched.pinned, fetched.sha256, fetched.etag) == (False, digest_of(listing), '"one"')
    server.asked.clear()
    assert get(cache, url, manifest="SHA256SUMS")[1].cached
    assert server.paths() == ["/d/SHA256SUMS"]


def test_one_wrong_file_fails_the_folder_and_the_others_are_kept(server: FileServer, cache: Cache) -> None:
    url, listing = serve_folder(server, {f"{n}": str(n).encode() for n in range(20)})
    server.serve("/d/7", b"other")
    with pytest.raises(DataError, match="/d/7 is not what"):
        get(cache, url, manifest="SHA256SUMS", sha256=digest_of(listing))
    server.serve("/d/7", b"7")
    server.asked.clear()
    get(cache, url, manifest="SHA256SUMS", sha256=digest_of(listing))
    assert "/d/7" in server.paths()
    assert len(server.asked) < 20


def test_files_kept_from_before_a_restart_of_the_machine_are_verified_again(
    server: FileServer, cache: Cache
) -> None:
    url, listing = serve_folder(server, {"a": b"right", "b": b"fine"})
    key = f"folder-{digest_of(listing)}"
    scratch = cache.scratch(key)
    (scratch / "boot").write_text("another")
    (scratch / digest_of(b"right")).write_bytes(b"\0\0\0\0\0")
    (scratch / digest_of(b"fine")).write_bytes(b"fine")
    path, _ = get(cache, url, manifest="SHA256SUMS", sha256=digest_of(listing))
    assert (path / "a").read_bytes() == b"right"
    assert "/d/b" not in server.paths()


def test_stop_ends_a_folder(server: FileServer, cache: Cache) -> None:
    url, _ = serve_folder(server, {f"{n}": str(n).encode() for n in range(20)})

    def stop() -> None:
        if len(server.asked) > 5:
            raise Cancelled("The run was cancelled.")

    source = DataSource(url=url, manifest="SHA256SUMS", path="x")
    with pytest.raises(Cancelled, match="The run was cancelled"):
        fetch(source, cache=cache, mounts={}, report=lambda *_: None, stop=stop, terms=OWN)


def test_folder_needs_a_manifest_and_a_slash(cache: Cache) -> None:
    for url, listing in (("http://h/d/", ""), ("http://h/d", "M"), ("http://h/d?x=/", "M")):
        with pytest.raises(DataError, match="names a folder"):
            get(cache, url, manifest=listing)


# --- mounts -----------------------------------------------------------------------------------------------


def test_mount_is_the_owners_folder(tmp_path: Path, cache: Cache) -> None:
    source = DataSource(mount="imagenet", path="data")
    mounts = {"imagenet": str(tmp_path), "gone": str(tmp_path / "gone")}

    def go(source: DataSource) -> tuple[Path, Fetched]:
        return fetch(source, cache=cache, mounts=mounts, report=lambda *_: None, stop=lambda: None, terms=OWN)

    path, fetched = go(source)
    assert (path, fetched.sha256, fetched.cached) == (tmp_path, "", True)
    with pytest.raises(DataError, match="lends no folder named 'other'; it lends: gone, imagenet"):
        go(DataSource(mount="other", path="data"))
    with pytest.raises(DataError, match="is not there"):
        go(DataSource(mount="gone", path="data"))


# --- in the work tree -------------------------------------------------------------------------------------


def shown(tree: Path, target: Path, path: str) -> Path:
    return attach(target, tree, DataSource(url="http://h/x", path=path))


def test_data_appears_at_its_path_without_a_copy(tmp_path: Path) -> None:
    target = tmp_path / "cached"
    target.write_bytes(CONTENT)
    tree = tmp_path / "tree"
    (tree / "in").mkdir(parents=True)
    (tree / "empty").mkdir()
    assert shown(tree, target, "in/new/train.bin").read_bytes() == CONTENT
    assert (tree / "in/new/train.bin").is_symlink()
    assert shown(tree, target, "./empty").read_bytes() == CONTENT
    again = shown(tree, target, "in/new/train.bin")  # a second try finds its own link
    assert again.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "path", ["tracked", "tracked/below", "folder", "link", "link/below", "dangling/below"]
)
def test_what_the_repository_has_is_never_replaced_nor_followed(tmp_path: Path, path: str) -> None:
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    outside.mkdir()
    (tree / "folder").mkdir(parents=True)
    (tree / "folder" / "file").write_text("mine")
    (tree / "tracked").write_text("mine")
    (tree / "link").symlink_to(outside)
    (tree / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="cannot appear"):
        shown(tree, outside / "x", path)
    assert not list(outside.iterdir())
    assert (tree / "tracked").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("path", ["", ".", "/etc/x", "../x", "a/../../x", "a/.."])
def test_paths_outside_the_tree_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(DataError, match="not inside the work folder"):
        shown(tmp_path, tmp_path, path)


# --- object stores ----------------------------------------------------------------------------------------


def test_object_stores_without_the_extra_say_how_to_get_it(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(DataError, match="needs an extra") as caught:
        get(cache, "s3://bucket/key")
    assert "pip install 'pushtrain[cloud]'" in caught.value.mend


@pytest.mark.slow
def test_object_store_is_read_resumed_and_asked_with_a_condition(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        settings = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": "us-east-1",
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        import obstore
        import urllib3
        from obstore.store import S3Store

        urllib3.request(
            "PUT",
            f"http://{host}:{port}/bucket",
            headers={
                "Authorization": "AWS4-HMAC-SHA256 Credential=testing/20260101/us-east-1/s3/aws4_request"
            },
        )
        obstore.put(S3Store("bucket"), "dir/a b.bin", CONTENT)
        url = "s3://bucket/dir/a%20b.bin"
        path, fetched = get(cache, url)
        assert path.read_bytes() == CONTENT
        assert fetched.etag
        assert get(cache, url)[1].cached
        other = Cache(tmp_path / "other")
        space = path.parent.name.removesuffix(DIGEST)  # what came by credentials is one repository's own
        assert space
        part = other.scratch(space + DIGEST) / "part"
        part.write_bytes(CONTENT[:500_000])
        about = {"etag": fetched.etag, "modified": "", "size": len(CONTENT), "boot": ""}
        (part.parent / "part.json").write_text(json.dumps(about))
        assert get(other, url, sha256=DIGEST)[0].read_bytes() == CONTENT
        part = other.scratch(space + "0" * 64) / "part"
        part.write_bytes(b"old" * 1000)
        (part.parent / "part.json").write_text(json.dumps({**about, "etag": '"gone"'}))
        with pytest.raises(DataError, match="expected sha256"):
            get(other, url, sha256="0" * 64)
        with pytest.raises(DataError, match="does not exist"):
            get(cache, "s3://bucket/absent")
        with pytest.raises(DataError, match="names no object"):
            get(cache, "s3://bucket")
    finally:
        moto.stop()


def test_environment_of_a_child_is_enough_to_fetch(server: FileServer, cache: Cache) -> None:
    url = server.serve("/a", CONTENT)
    env = {"PATH": os.environ["PATH"]}
    argv = [sys.executable, "-c", CHILD, str(cache.root), url, DIGEST]
    assert (
        subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout == "1048576 False\n"
    )
