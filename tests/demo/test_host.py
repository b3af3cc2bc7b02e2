"""The embedded Git host, spoken to by the real git and by plain HTTP."""

import gzip
import hashlib
import hmac
import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest
import urllib3

from pushtrain.core.errors import Conflict, GitError
from pushtrain.demo.history import ENVIRONMENT, exec_path, git
from pushtrain.demo.host import Host, hosting
from pushtrain.testing import WorkRepository, wait_until

SECRET = b"between us"
Repositories = Callable[..., WorkRepository]


class Receiver(ThreadingHTTPServer):
    """Keeps every webhook; answers the first `refusals` of them with 503."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.refusals = 0
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/webhook"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = 202
        if self.server.refusals:
            self.server.refusals -= 1
            status = 503
        else:
            self.server.received.append(({k.lower(): v for k, v in self.headers.items()}, body))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        yield server


def _payload(receiver: Receiver, number: int) -> dict[str, Any]:
    wait_until(lambda: len(receiver.received) >= number, what=f"webhook {number}")
    document = json.loads(receiver.received[number - 1][1])
    assert isinstance(document, dict)
    return document


# --- git --------------------------------------------------------------------------------------------------


def test_what_is_pushed_can_be_fetched(git_host: Host, repository: Repositories) -> None:
    remote = git_host.create("octo/hello")
    work = repository(remote=remote, token=git_host.token)
    commit = work.commit({"train.py": "print('hello')\n"})
    work.push()
    other = repository("other", remote=remote, token=git_host.token)
    assert other.fetch("main") == commit
    assert other.show(commit, "train.py") == "print('hello')"
    assert git_host.key("octo/hello") == remote.removeprefix("http://").removesuffix(".git")


def test_without_the_token_nothing_is_given_or_taken(git_host: Host, repository: Repositories) -> None:
    remote = git_host.create("octo/hello")
    work = repository(remote=remote, token="wrong")
    work.commit({"a": "1"})
    with pytest.raises(GitError, match="Authentication failed"):
        work.push()
    assert work.git("ls-remote", "origin", check=False) == ""
    assert git(git_host.folder("octo/hello"), "for-each-ref") == ""


@pytest.mark.parametrize("given", ["", "Basic", "Basic !!!", "Bearer abc", "Basic " + "eDp3cm9uZw=="])
def test_a_strange_authorization_is_refused(git_host: Host, given: str) -> None:
    remote = git_host.create("octo/hello")
    answer = urllib3.request("GET", f"{remote}/info/refs", headers={"Authorization": given})
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/octo/hello.git/HEAD",
        "/octo/hello.git/objects/info/packs",
        "/octo/missing.git/info/refs",
        "/octo/../../etc/passwd",
        "/octo/..%2fhello.git/info/refs",
        "/octo/hello.git/config",
    ],
)
def test_only_smart_http_of_known_repositories_is_served(git_host: Host, path: str) -> None:
    git_host.create("octo/hello")
    assert urllib3.request("GET", git_host.url + path).status in {400, 404}


def test_a_push_far_larger_than_any_buffer_arrives_whole(git_host: Host, repository: Repositories) -> None:
    work = repository(remote=git_host.create("octo/big"), token=git_host.token)
    content = os.urandom(4 << 20)
    commit = work.commit({"weights.bin": content, "more.bin": os.urandom(1 << 20)})
    work.push()  # over http.postBuffer's 1 MiB: git sends it chunked, after a probe
    other = repository("other", remote=work.git("remote", "get-url", "origin"), token=git_host.token)
    other.fetch("main")
    other.git("checkout", "--quiet", commit)
    assert hashlib.sha256((other.folder / "weights.bin").read_bytes()).digest() == (
        hashlib.sha256(content).digest()
    )


def test_a_gzipped_request_is_understood(
    git_host: Host, repository: Repositories, receiver: Receiver
) -> None:
    git_host.notify(receiver.url, SECRET)
    remote = git_host.create("octo/hello")
    work = repository(remote=remote, token=git_host.token)
    commit = work.commit({"a": "1"})
    work.git("pack-objects", "--revs", "--all", "pack", check=False)
    packed = next(work.folder.glob("pack-*.pack")).read_bytes()
    line = f"{'0' * 40} {commit} refs/heads/main\0 report-status".encode()
    request = f"{len(line) + 4:04x}".encode() + line + b"0000" + packed
    answer = urllib3.request(
        "POST",
        f"{remote}/git-receive-pack",
        body=gzip.compress(request),
        headers={
            "Content-Type": "application/x-git-receive-pack-request",
            "Content-Encoding": "gzip",
            **urllib3.make_headers(basic_auth=f"x:{git_host.token}"),
        },
    )
    assert b"ok refs/heads/main" in answer.data
    assert _payload(receiver, 1)["after"] == commit


def test_a_body_that_only_claims_to_be_gzipped_is_gits_to_refuse(git_host: Host, receiver: Receiver) -> None:
    git_host.notify(receiver.url, SECRET)
    remote = git_host.create("octo/hello")
    answer = urllib3.request(
        "POST",
        f"{remote}/git-receive-pack",
        body=b"not gzip",
        headers={
            "Content-Type": "application/x-git-receive-pack-request",
            "Content-Encoding": "gzip",
            **urllib3.make_headers(basic_auth=f"x:{git_host.token}"),
        },
    )
    assert b"ok refs" not in answer.data
    assert git_host.deliveries == ()


def test_two_clones_fetch_at_once_while_a_third_pushes(git_host: Host, repository: Repositories) -> None:
    remote = git_host.create("octo/hello")
    work = repository(remote=remote, token=git_host.token)
    first = work.commit({"a": "1"})
    work.push()
    others = [repository(f"other-{n}", remote=remote, token=git_host.token) for n in range(2)]
    tips: list[str] = []
    threads = [threading.Thread(target=lambda o=other: tips.append(o.fetch("main"))) for other in others]
    for thread in threads:
        thread.start()
    second = work.commit({"a": "2"})
    work.push()
    for thread in threads:
        thread.join()
    assert len(tips) == 2
    assert set(tips) <= {first, second}


def test_a_caller_who_leaves_in_the_middle_leaves_no_process(
    git_host: Host, repository: Repositories
) -> None:
    remote = git_host.create("octo/big")
    work = repository(remote=remote, token=git_host.token)
    commit = work.commit({"weights.bin": os.urandom(4 << 20)})
    work.push()
    wants = f"0032want {commit}\n00000009done\n".encode()
    headers = {
        "Content-Type": "application/x-git-upload-pack-request",
        **urllib3.make_headers(basic_auth=f"x:{git_host.token}"),
    }
    connection = http.client.HTTPConnection(git_host.url.removeprefix("http://"))
    connection.request("POST", "/octo/big.git/git-upload-pack", wants, headers)
    assert connection.getresponse().read(1000)
    connection.close()
    wait_until(lambda: not _backends(), what="git to end")


def _backends() -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"git" in (entry / "cmdline").read_bytes():
                found.append(entry.name)
        except OSError:
            continue
    return found


def test_ending_the_host_ends_a_request_that_hangs(tmp_path: Path) -> None:
    with hosting(tmp_path / "host") as host:
        host.create("octo/hello")
        connection = http.client.HTTPConnection(host.url.removeprefix("http://"))
        connection.putrequest("POST", "/octo/hello.git/git-upload-pack")
        for name, value in urllib3.make_headers(basic_auth=f"x:{host.token}").items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", "100")
        connection.endheaders(b"00")
    with pytest.raises(OSError, match="refused"):
        http.client.HTTPConnection(host.url.removeprefix("http://")).connect()
    connection.close()


def test_a_taken_port_is_told(git_host: Host, tmp_path: Path) -> None:
    port = int(git_host.url.rpartition(":")[2])
    with pytest.raises(Conflict, match=str(port)), hosting(tmp_path / "other", port=port):
        pass


def test_a_repository_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with hosting(tmp_path / "host") as host:
        (tmp_path / "host" / "octo").write_text("a file")
        with pytest.raises(GitError, match="init"):
            host.create("octo/hello")


def test_a_machine_without_git_or_its_http_backend_is_told_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exec_path.cache_clear()
    monkeypatch.setitem(ENVIRONMENT, "PATH", str(tmp_path))
    with pytest.raises(GitError, match="not installed"):
        Host(tmp_path / "host", token="").create("octo/hello")
    fake = tmp_path / "git"
    fake.write_text(f"#!/bin/sh\necho {tmp_path}\n")
    fake.chmod(0o755)
    with pytest.raises(GitError, match="http-backend"):
        Host(tmp_path / "host", token="").create("octo/hello")


# --- data -------------------------------------------------------------------------------------------------


def test_data_is_open_with_etag_and_ranges(git_host: Host, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "host-data" / "set.bin").write_bytes(content)
    url = f"{git_host.url}/data/set.bin"
    whole = urllib3.request("GET", url)
    assert whole.data == content
    part = urllib3.request("GET", url, headers={"Range": "bytes=299990-", "If-Range": whole.headers["ETag"]})
    assert (part.status, part.data) == (206, content[299_990:])
    same = urllib3.request("GET", url, headers={"If-None-Match": whole.headers["ETag"]})
    assert same.status == 304
    assert urllib3.request("GET", f"{git_host.url}/data/missing").status == 404
    assert urllib3.request("GET", f"{git_host.url}/data/../host/octo").status == 404


def test_a_host_without_data_serves_none(tmp_path: Path) -> None:
    with hosting(tmp_path / "host") as host:
        assert urllib3.request("GET", f"{host.url}/data/set.bin").status == 404


# --- webhooks ---------------------------------------------------------------------------------------------


def test_a_push_is_told_as_github_tells_it(
    git_host: Host, repository: Repositories, receiver: Receiver
) -> None:
    git_host.notify(receiver.url, SECRET)
    work = repository(remote=git_host.create("octo/hello"), token=git_host.token)
    first = work.commit({"train.py": "1", "old.py": "1"}, "First")
    work.push()
    created = _payload(receiver, 1)
    work.git("rm", "--quiet", "old.py")
    second = work.commit({"train.py": "2", "new ü.py": "1"}, "Second\n\nWith a body.")
    work.push()
    told = _payload(receiver, 2)

    headers, body = receiver.received[1]
    assert headers["x-github-event"] == "push"
    assert headers["x-hub-signature-256"] == "sha256=" + hmac.new(SECRET, body, hashlib.sha256).hexdigest()
    assert headers["x-github-delivery"] != receiver.received[0][0]["x-github-delivery"]
    assert headers["content-type"] == "application/json"

    assert (created["created"], created["before"], created["after"]) == (True, "0" * 40, first)
    assert (told["created"], told["deleted"], told["forced"]) == (False, False, False)
    assert (told["ref"], told["before"], told["after"]) == ("refs/heads/main", first, second)
    assert told["repository"]["full_name"] == "octo/hello"
    assert told["repository"]["html_url"] == f"{git_host.url}/octo/hello"
    assert told["repository"]["id"] == created["repository"]["id"]
    assert told["head_commit"] == told["commits"][-1]
    assert told["head_commit"]["message"] == "Second\n\nWith a body."
    assert told["head_commit"]["author"]["name"] == "Ada"
    assert told["head_commit"]["added"] == ["new ü.py"]
    assert told["head_commit"]["modified"] == ["train.py"]
    assert told["head_commit"]["removed"] == ["old.py"]


def test_deleted_and_rewritten_branches_are_told_as_such(
    git_host: Host, repository: Repositories, receiver: Receiver
) -> None:
    git_host.notify(receiver.url, SECRET)
    work = repository(remote=git_host.create("octo/hello"), token=git_host.token)
    work.commit({"a": "1"}, "First")
    work.commit({"a": "2"}, "Second")
    work.push("main:draft")
    _payload(receiver, 1)
    work.git("commit", "--quiet", "--amend", "--message", "Rewritten")
    work.push("main:draft", "--force")
    assert _payload(receiver, 2)["forced"] is True
    work.push(":draft")
    gone = _payload(receiver, 3)
    assert gone["deleted"] is True
    assert (gone["after"], gone["head_commit"], gone["commits"]) == ("0" * 40, None, [])


def test_several_refs_of_one_push_are_told_one_by_one(
    git_host: Host, repository: Repositories, receiver: Receiver
) -> None:
    git_host.notify(receiver.url, SECRET)
    work = repository(remote=git_host.create("octo/hello"), token=git_host.token)
    work.commit({"a": "1"})
    work.git("tag", "--annotate", "v1", "--message", "One")
    work.push("main", "--follow-tags")
    refs = {_payload(receiver, 1)["ref"], _payload(receiver, 2)["ref"]}
    assert refs == {"refs/heads/main", "refs/tags/v1"}


def test_a_rejected_push_is_not_told(git_host: Host, repository: Repositories, receiver: Receiver) -> None:
    git_host.notify(receiver.url, SECRET)
    remote = git_host.create("octo/hello")
    git(git_host.folder("octo/hello"), "config", "receive.denyNonFastForwards", "true")
    work = repository(remote=remote, token=git_host.token)
    work.commit({"a": "1"})
    work.push()
    work.git("commit", "--quiet", "--amend", "--message", "Rewritten")
    with pytest.raises(GitError, match="non-fast-forward"):
        work.push("main", "--force")
    work.push("main:other")
    assert _payload(receiver, 2)["ref"] == "refs/heads/other"


def test_a_receiver_that_is_still_starting_is_asked_again(
    git_host: Host, repository: Repositories, receiver: Receiver
) -> None:
    receiver.refusals = 1
    git_host.notify(receiver.url, SECRET)
    work = repository(remote=git_host.create("octo/hello"), token=git_host.token)
    commit = work.commit({"a": "1"})
    work.push()
    assert _payload(receiver, 1)["after"] == commit
    delivery = wait_until(lambda: git_host.deliveries)[0]
    assert (delivery.status, delivery.update.after) == (202, commit)


def test_a_redelivery_has_the_same_id_and_the_same_bytes(
    git_host: Host, repository: Repositories, receiver: Receiver
) -> None:
    git_host.notify(receiver.url, SECRET)
    work = repository(remote=git_host.create("octo/hello"), token=git_host.token)
    work.commit({"a": "1"})
    work.push()
    again = git_host.redeliver(wait_until(lambda: git_host.deliveries)[0])
    assert again.status == 202
    assert receiver.received[0][1] == receiver.received[1][1]
    ids = [headers["x-github-delivery"] for headers, _ in receiver.received]
    assert ids == [again.id, again.id]


def test_webhooks_are_set_and_listed_over_http_as_on_github(
    git_host: Host, repository: Repositories, receiver: Receiver
) -> None:
    me = urllib3.make_headers(basic_auth=f"x:{git_host.token}")
    url = f"{git_host.url}/hooks"
    assert urllib3.request("GET", url).status == 401
    for nonsense in (b"", b"[]", b'{"url": 1}'):
        assert urllib3.request("POST", url, body=nonsense, headers=me).status == 422
    hook = json.dumps({"url": receiver.url, "secret": SECRET.decode()})
    assert urllib3.request("POST", url, body=hook, headers=me).json() == []
    work = repository(remote=git_host.create("octo/hello"), token=git_host.token)
    commit = work.commit({"a": "1"})
    work.push()
    assert _payload(receiver, 1)["after"] == commit
    told = wait_until(lambda: urllib3.request("GET", url, headers=me).json())
    assert [(one["ref"], one["after"], one["status"]) for one in told] == [("refs/heads/main", commit, 202)]


def test_the_host_as_a_process_of_its_own_ends_when_it_is_told(
    tmp_path: Path, repository: Repositories
) -> None:
    (tmp_path / "data").mkdir()
    argv = (sys.executable, "-m", "pushtrain.demo.host", tmp_path / "root", tmp_path / "data")
    environment = {**os.environ, "PUSHTRAIN_GIT_TOKEN": "open sesame"}
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        url = json.loads(child.stdout.readline())["url"]
        Host(tmp_path / "root", token="").create("octo/hello")
        work = repository(remote=f"{url}/octo/hello.git", token="open sesame")
        commit = work.commit({"a": "1"})
        work.push()
        assert work.fetch("main") == commit
        child.terminate()
        assert child.wait(timeout=10) == 0


def test_a_quiet_host_tells_nobody(git_host: Host, repository: Repositories, receiver: Receiver) -> None:
    git_host.notify(receiver.url, SECRET)
    git_host.quiet()
    work = repository(remote=git_host.create("octo/hello"), token=git_host.token)
    work.commit({"a": "1"})
    work.push()
    assert git_host.deliveries == ()
    git_host.notify(receiver.url, SECRET)
    second = work.commit({"a": "2"})
    work.push()
    assert _payload(receiver, 1)["after"] == second
