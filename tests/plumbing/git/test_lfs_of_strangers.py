"""Git LFS servers that a commit names: they bring contents, and lead nowhere."""

import hashlib
import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forge import FILE, Forge
from pushtrain.core.errors import GitError
from pushtrain.core.owner.outward import Outward
from pushtrain.core.settings import Repository
from pushtrain.core.wire import lfsapi
from pushtrain.plumbing.data import download
from pushtrain.plumbing.data.ledger import Exhausted, Ledger
from pushtrain.plumbing.git import lfs, lfsbatch
from pushtrain.plumbing.git.complaint import UnsafeContent
from pushtrain.plumbing.git.mirror import Mirror

MAIN = "refs/heads/main"
CONTENT = b"weights\n" * 500
OID = hashlib.sha256(CONTENT).hexdigest()


class LfsHost(http.server.ThreadingHTTPServer):
    """An LFS server on loopback, and whatever else an attacker would put there."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.shown: list[dict[str, str]] = []
        self.contents: dict[str, bytes] = {}
        self.answers: dict[str, list[Callable[[_Handler], None]]] = {}
        self.href = ""
        """Where contents are said to be; `{oid}` in it is the digest."""
        self.header: dict[str, str] = {}
        self.download: dict[str, Any] = {}
        self.more: list[dict[str, Any]] = []

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: LfsHost
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self._noted():
            found = self.server.contents.get(self.path.rpartition("/")[2])
            self.say(200 if found is not None else 404, found or b"")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._noted():
            for name in ("Accept", "Content-Type"):
                assert self.headers[name].partition(";")[0] == "application/vnd.git-lfs+json"
            href = self.server.href or f"http://{self.server.place}/store/{{oid}}"
            objects = [
                {
                    **one,
                    "actions": {
                        "download": {
                            "href": href.replace("{oid}", one["oid"]),
                            "header": self.server.header,
                            **self.server.download,
                        }
                    },
                }
                for one in asked["objects"]
            ]
            answer = json.dumps({"transfer": "basic", "objects": self.server.more + objects}).encode()
            self.say(200, answer, Content_Type="application/vnd.git-lfs+json")

    def _noted(self) -> bool:
        """Whether the usual answer is due."""
        self.server.asked.append(f"{self.command} {self.path}")
        self.server.shown.append({name.lower(): value for name, value in self.headers.items()})
        if not (waiting := self.server.answers.get(self.path)):
            return True
        waiting.pop(0)(self)
        return False

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running(server: LfsHost) -> Iterator[LfsHost]:
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server() -> Iterator[LfsHost]:
    with running(LfsHost()) as found:
        yield found


@pytest.fixture
def victim() -> Iterator[LfsHost]:
    """A server of the owner's own network, which nobody lists."""
    with running(LfsHost()) as found:
        found.contents[OID] = CONTENT
        yield found


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_pause", lambda *_: None)
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


class World:
    """A mirror whose commit names an LFS server of its own choice."""

    def __init__(self, folder: Path, url: str, pointers: Mapping[str, lfs.Pointer], *hosts: str) -> None:
        forge = Forge(folder / "origin.git")
        files = [(FILE, name, forge.blob(one.text())) for name, one in pointers.items()]
        config = forge.blob(f"[lfs]\n\turl = {url}\n")
        self.commit = forge.push(sorted([*files, (FILE, ".lfsconfig", config)], key=lambda one: one[1]))
        remote = Repository(key="github.com/octo/hello", remote=forge.url)
        self.mirror = Mirror(folder / "mirrors", remote, outward=Outward(hosts), token="hunter2")
        self.mirror.fetch(MAIN, self.commit)
        self.out = folder / "out"

    def checkout(self) -> None:
        self.mirror.checkout(self.commit, self.out)

    def kept(self) -> list[str]:
        """Contents that the mirror has now."""
        return [one.name for one in self.mirror.folder.glob("lfs/objects/*/*/*")]


def world(folder: Path, server: LfsHost, *hosts: str, size: int = len(CONTENT), oid: str = OID) -> World:
    pointers = {"big.bin": lfs.Pointer(oid, size)}
    return World(folder, f"http://{server.place}/lfs", pointers, server.place, *hosts)


def test_a_server_of_the_commits_choice_brings_contents_without_git_lfs_and_without_credentials(
    server: LfsHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lfs.shutil, "which", lambda _: None)  # type: ignore[attr-defined]
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login owner password hunter2\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    other = b"other"
    server.contents = {OID: CONTENT, hashlib.sha256(other).hexdigest(): other}
    server.header = {"X-Token": "for-this-host", "Host": "metadata.google.internal"}
    pointers = {
        "a.bin": lfs.Pointer(OID, len(CONTENT)),
        "b.bin": lfs.Pointer(OID, len(CONTENT)),
        "c.bin": lfs.Pointer(hashlib.sha256(other).hexdigest(), len(other)),
    }
    here = World(tmp_path, f"http://{server.place}/lfs/", pointers, server.place)
    here.checkout()
    assert [(here.out / name).read_bytes() for name in pointers] == [CONTENT, CONTENT, other]
    assert sorted(server.asked) == sorted(
        ["POST /lfs/objects/batch", *(f"GET /store/{oid}" for oid in server.contents)]
    )
    assert "hunter2" not in str(server.shown)
    assert [one.get("x-token") for one in server.shown[1:]] == ["for-this-host"] * 2
    assert {one["host"] for one in server.shown} == {server.place}
    assert not (here.mirror.folder / "lfs" / "unfinished").exists()


def test_the_lfs_server_of_a_strangers_repository_is_asked_where_git_lfs_would(
    server: LfsHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lfs.shutil, "which", lambda _: None)  # type: ignore[attr-defined]
    server.contents[OID] = CONTENT
    forge = Forge(tmp_path / "origin.git")
    pointer = lfs.Pointer(OID, len(CONTENT))
    commit = forge.push([(FILE, "big.bin", forge.blob(pointer.text()))])
    mirror = Mirror(tmp_path / "mirrors", Repository(key="github.com/octo/lib", remote=forge.url))
    mirror.fetch(MAIN, commit)
    git = replace(mirror.git, remote=f"http://{server.place}/octo/lib", stranger=True)
    found = lfs.fetch(git, commit, {"big.bin": pointer}, stop=None, outward=Outward((server.place,)))
    assert found["big.bin"].read_bytes() == CONTENT
    assert server.asked[0] == "POST /octo/lib.git/info/lfs/objects/batch"


def test_what_such_a_server_brings_counts_among_the_days_downloads(server: LfsHost, tmp_path: Path) -> None:
    server.contents[OID] = CONTENT
    here = world(tmp_path, server)
    ledger = Ledger(tmp_path / "downloads.json", len(CONTENT) + 10)
    here.mirror = here.mirror.tolled(ledger)
    here.checkout()
    assert ledger.today() == len(CONTENT)
    lfs.content_path(here.mirror.git, OID).unlink()
    asked = len(server.asked)
    with pytest.raises(Exhausted):
        here.mirror.checkout(here.commit, tmp_path / "again")
    assert len(server.asked) == asked, "it is not asked for what may not come"


@pytest.mark.skipif(not lfs.installed(), reason="needs git-lfs")
def test_the_owners_own_server_is_asked_by_git_lfs_wherever_it_is(server: LfsHost, tmp_path: Path) -> None:
    """... which also shows that git-lfs takes the server of these tests for one."""
    server.contents[OID] = CONTENT
    forge = Forge(tmp_path / "origin.git")
    pointer = lfs.Pointer(OID, len(CONTENT))
    commit = forge.push([(FILE, "big.bin", forge.blob(pointer.text()))])
    mirror = Mirror(tmp_path / "mirrors", Repository(key="github.com/octo/lib", remote=forge.url))
    mirror.fetch(MAIN, commit)
    git = replace(mirror.git, remote=f"http://{server.place}/octo/lib")
    found = lfs.fetch(git, commit, {"big.bin": pointer}, stop=None)
    assert found["big.bin"].read_bytes() == CONTENT
    assert "POST /octo/lib.git/info/lfs/objects/batch" in server.asked
    assert "git-lfs" in server.shown[0]["user-agent"]


# --- where it may lead ---


@pytest.mark.parametrize(
    "form",
    ["http://{place}/{oid}", "http://localhost:{port}/{oid}", "http://2130706433:{port}/{oid}",
     "http://127.1:{port}/{oid}", "http://[::ffff:127.0.0.1]:{port}/{oid}", "http://x@{place}/{oid}",
     "http://10.0.0.1/{oid}", "http://169.254.169.254/latest/{oid}", "http://nas.lan/{oid}",
     "file:///etc/passwd", "//{place}/{oid}"],
)  # fmt: skip
def test_where_contents_are_said_to_be_is_no_way_into_the_owners_network(
    server: LfsHost, victim: LfsHost, tmp_path: Path, form: str
) -> None:
    server.href = form.replace("{place}", victim.place).replace("{port}", str(victim.server_port))
    server.download = {"expires_in": 60}
    here = world(tmp_path, server)
    with pytest.raises(GitError, match="cannot be fetched"):
        here.checkout()
    assert victim.asked == []
    assert here.kept() == []


@pytest.mark.parametrize("what", ["batch", "content"])
@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_is_no_way_into_the_owners_network(
    server: LfsHost, victim: LfsHost, tmp_path: Path, what: str, status: int
) -> None:
    path = "/lfs/objects/batch" if what == "batch" else f"/store/{OID}"
    server.answers[path] = [lambda one: one.say(status, Location=f"http://{victim.place}/{OID}")]
    here = world(tmp_path, server)
    with pytest.raises(GitError, match="loopback"):
        here.checkout()
    assert victim.asked == []
    assert here.kept() == []


def test_a_server_may_send_us_on_and_what_is_for_one_host_goes_to_no_other(
    server: LfsHost, tmp_path: Path
) -> None:
    with running(LfsHost()) as other:
        other.contents[OID] = CONTENT
        server.header = {"Authorization": "Basic for-the-first"}
        server.answers = {
            "/lfs/objects/batch": [lambda one: one.say(307, Location="/moved/objects/batch")],
            f"/store/{OID}": [lambda one: one.say(302, Location=f"http://{other.place}/{OID}")],
        }
        here = world(tmp_path, server, other.place)
        here.checkout()
        assert (here.out / "big.bin").read_bytes() == CONTENT
        assert server.asked == ["POST /lfs/objects/batch", "POST /moved/objects/batch", f"GET /store/{OID}"]
        assert server.shown[2]["authorization"] == "Basic for-the-first"
        assert "authorization" not in other.shown[0]


def test_a_name_that_leads_elsewhere_the_second_time_gains_nothing(
    server: LfsHost, victim: LfsHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """127.0.0.9 is listed, and so plays a public address; the victim listens at 127.0.0.1 alone."""
    questions: list[str] = []
    real = socket.getaddrinfo

    def looked_up(host: str, port: int, *rest: Any, **more: Any) -> Any:
        if host != "rebind.example.org":
            return real(host, port, *rest, **more)
        questions.append(host)
        return real("127.0.0.9" if len(questions) == 1 else "127.0.0.1", port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    server.href = f"http://rebind.example.org:{victim.server_port}/{{oid}}"
    here = world(tmp_path, server, f"127.0.0.9:{victim.server_port}")
    with pytest.raises(GitError, match="loopback"):
        here.checkout()
    assert len(questions) == 2
    assert victim.asked == []


# --- what it may bring ---


def test_contents_with_another_digest_are_thrown_away(server: LfsHost, tmp_path: Path) -> None:
    server.contents["ab" * 32] = CONTENT
    here = world(tmp_path, server, oid="ab" * 32)
    with pytest.raises(GitError, match="expected sha256 abab"):
        here.checkout()
    assert here.kept() == []


@pytest.mark.parametrize("announced", [True, False])
def test_more_than_the_pointers_size_is_not_taken(
    server: LfsHost, tmp_path: Path, *, announced: bool
) -> None:
    written = 0

    def endless(one: _Handler) -> None:
        nonlocal written
        one.close_connection = True
        one.send_response(200)
        if announced:
            one.send_header("Content-Length", str(1 << 40))
        one.end_headers()
        try:
            while written < 1 << 28:
                written += one.wfile.write(b"x" * 65536)
        except OSError:
            pass

    server.answers[f"/store/{OID}"] = [endless]
    here = world(tmp_path, server)
    with pytest.raises(GitError, match=f"more than the {len(CONTENT)} bytes"):
        here.checkout()
    assert written < 1 << 28
    assert here.kept() == []
    assert not [one for one in here.mirror.folder.glob("lfs/unfinished/*") if one.stat().st_size > 1 << 20]


def test_contents_that_are_shorter_than_announced_are_not_taken(server: LfsHost, tmp_path: Path) -> None:
    server.contents[OID] = CONTENT[:-1]
    here = world(tmp_path, server)
    with pytest.raises(GitError, match="expected sha256"):
        here.checkout()
    assert here.kept() == []


def test_an_answer_without_end_is_not_read_to_its_end(server: LfsHost, tmp_path: Path) -> None:
    server.answers["/lfs/objects/batch"] = [
        lambda one: one.say(200, b" " * (lfsapi.LARGEST_ANSWER + 1)),
    ]
    with pytest.raises(GitError, match=f"more than the {lfsapi.LARGEST_ANSWER} bytes"):
        world(tmp_path, server).checkout()
    assert len(server.asked) == 1


def test_objects_that_nobody_asked_for_are_not_fetched(
    server: LfsHost, victim: LfsHost, tmp_path: Path
) -> None:
    server.contents[OID] = CONTENT
    server.more = [
        {"oid": f"{n:064x}", "size": 1, "actions": {"download": {"href": f"http://{victim.place}/{n}"}}}
        for n in range(5000)
    ]
    here = world(tmp_path, server, victim.place)
    here.checkout()
    assert victim.asked == []
    assert here.kept() == [OID]


def test_more_contents_than_the_limit_are_not_asked_for(
    server: LfsHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lfsbatch, "_MOST", 3)
    pointers = {f"{n}.bin": lfs.Pointer(f"{n:064x}", 1) for n in range(4)}
    here = World(tmp_path, f"http://{server.place}/lfs", pointers, server.place)
    with pytest.raises(UnsafeContent, match="4 Git LFS contents"):
        here.checkout()
    assert server.asked == []


def test_many_contents_come_in_portions(server: LfsHost, tmp_path: Path) -> None:
    server.contents = {hashlib.sha256(b"%d" % n).hexdigest(): b"%d" % n for n in range(101)}
    pointers = {one.decode(): lfs.Pointer(oid, len(one)) for oid, one in server.contents.items()}
    here = World(tmp_path, f"http://{server.place}/lfs", pointers, server.place)
    here.checkout()
    assert server.asked.count("POST /lfs/objects/batch") == 2
    assert sorted(here.kept()) == sorted(server.contents)
    assert (here.out / "77").read_bytes() == b"77"


# --- what passes ---


def test_a_busy_server_is_asked_again(server: LfsHost, tmp_path: Path) -> None:
    server.contents[OID] = CONTENT
    server.answers = {
        "/lfs/objects/batch": [lambda one: one.say(429, Retry_After="1"), lambda one: one.say(503)],
        f"/store/{OID}": [lambda one: one.say(500)],
    }
    here = world(tmp_path, server)
    here.checkout()
    assert (here.out / "big.bin").read_bytes() == CONTENT
    assert len(server.asked) == 5


def test_a_url_that_has_expired_is_asked_for_once_more(server: LfsHost, tmp_path: Path) -> None:
    server.contents[OID] = CONTENT
    server.download = {"expires_at": "2016-11-10T15:29:07Z"}
    server.answers = {f"/store/{OID}": [lambda one: one.say(403)]}
    here = world(tmp_path, server)
    here.checkout()
    assert (here.out / "big.bin").read_bytes() == CONTENT
    server.answers[f"/store/{OID}"] = [lambda one: one.say(403)] * 9
    here = world(tmp_path / "again", server)
    with pytest.raises(GitError, match="403"):
        here.checkout()
    assert len(server.answers[f"/store/{OID}"]) == 7


def test_what_another_commit_left_unfinished_is_removed(server: LfsHost, tmp_path: Path) -> None:
    server.contents[OID] = CONTENT
    here = world(tmp_path, server)
    unfinished = here.mirror.folder / "lfs" / "unfinished"
    unfinished.mkdir(parents=True)
    for name in ("ab" * 32, f"{'ab' * 32}.json"):
        (unfinished / name).write_bytes(b"x")
    here.checkout()
    assert not unfinished.exists()


def test_it_may_not_take_longer_than_a_fetch(
    server: LfsHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lfsbatch, "LONGEST", -1)
    with pytest.raises(GitError, match="took longer"):
        world(tmp_path, server).checkout()
    assert server.asked == []


def test_stopping_ends_it(server: LfsHost, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop() -> None:
        raise Stopped

    store = lfsbatch.LfsServer(
        f"http://{server.place}/lfs", tmp_path, outward=Outward((server.place,)), stop=stop
    )
    with pytest.raises(Stopped):
        store.fetch({OID: len(CONTENT)})
    assert server.asked == []
