"""Submodules and LFS servers that a commit names: nothing of the owner's is shown to them, or reached."""

import base64
import contextlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forge import FILE, MODULE, Forge
from pushtrain.core.errors import GitError, PushtrainError
from pushtrain.core.owner.outward import Outward
from pushtrain.core.settings import Repository
from pushtrain.demo.host import Host
from pushtrain.plumbing.git import command as gitcommand
from pushtrain.plumbing.git import lfs
from pushtrain.plumbing.git import mirror as mirroring
from pushtrain.plumbing.git.command import Git
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.testing import WorkRepository

MAIN = "refs/heads/main"


class Witness(http.server.ThreadingHTTPServer):
    """A server of the owner's own network: notes whoever asks, and answers with what it is told."""

    def __init__(self, answer: tuple[int, dict[str, str], bytes] = (404, {}, b"")) -> None:
        super().__init__(("127.0.0.1", 0), _Asked)
        self.asked: list[str] = []
        self.shown: list[str] = []
        self.answer = answer

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class _Asked(http.server.BaseHTTPRequestHandler):
    server: Witness

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.shown.append(str(self.headers))
        status, headers, body = self.server.answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815  as the base class calls it

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _nobody_else_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a refused fetch leaves is cleared away after a moment, lest another one be about to name it."""
    monkeypatch.setattr(mirroring, "_MOMENT", 0.01)


@pytest.fixture
def witness() -> Iterator[Witness]:
    with Witness() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def with_submodule(work: WorkRepository, url: str, child: str = "1" * 40) -> str:
    """Push a commit with a submodule at a URL."""
    work.write({".gitmodules": f'[submodule "x"]\n\tpath = x\n\turl = {url}\n', "a": "1"})
    work.git("update-index", "--add", "--cacheinfo", f"160000,{child},x")
    work.git("add", "a", ".gitmodules")
    work.git("commit", "-qm", "with a submodule")
    work.push()
    return work.head()


# --- the owner's credentials ---


def ways_in(host: Host, home: Path, way: str) -> dict[str, str]:
    """How an owner's git gets in, each a way that people use; the environment for it."""
    place = host.url.removeprefix("http://")
    login = base64.b64encode(f"owner:{host.token}".encode()).decode()
    if way == "netrc":
        (home / ".netrc").write_text(f"machine 127.0.0.1 login owner password {host.token}\n")
    helper = f"!f() {{ echo username=o; echo password={host.token}; }}; f"
    config = {
        "url-helper": f'[credential "{host.url}"]\n\thelper = "{helper}"\n',
        "instead-of": f'[url "http://owner:{host.token}@{place}/"]\n\tinsteadOf = {host.url}/\n',
        "header": f"[http]\n\textraHeader = Authorization: Basic {login}\n",
        "url-header": f'[http "{host.url}/"]\n\textraHeader = Authorization: Basic {login}\n',
    }.get(way, "")
    (home / "gitconfig").write_text(config)
    env = {"HOME": str(home), "GIT_CONFIG_GLOBAL": str(home / "gitconfig")}
    if way == "environment":
        env |= {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "http.extraHeader",
            "GIT_CONFIG_VALUE_0": f"Authorization: Basic {login}",
        }
    if way == "askpass":
        (home / "askpass").write_text(f"#!/bin/sh\necho {host.token}\n")
        (home / "askpass").chmod(0o755)
        (home / "gitconfig").write_text(f"[core]\n\taskPass = {home}/askpass\n")
    return env


@pytest.mark.parametrize(
    "way",
    ["netrc", "url-helper", "instead-of", "header", "url-header", "environment", "askpass", "token"],
)
def test_a_submodule_is_not_fetched_with_the_owners_credentials_unless_the_owner_lends_it(
    git_host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The borrower names the owner's private repository as a submodule, to read it in a job."""
    home = tmp_path / "home"
    home.mkdir()
    private = WorkRepository(tmp_path / "private", git_host.create("owner/private"), token=git_host.token)
    secret = private.commit({"secret": "the owner's own words"})
    private.push()
    work = WorkRepository(tmp_path / "work", git_host.create("octo/hello"), token=git_host.token)
    commit = with_submodule(work, "../../owner/private", secret)
    for name, value in ways_in(git_host, home, way).items():
        monkeypatch.setenv(name, value)
    place = git_host.url.removeprefix("http://")
    options: dict[str, Any] = {
        "token": git_host.token if way == "token" else "",
        "outward": Outward((place,)),
    }
    remote = Repository(key=f"{place}/octo/hello", remote=f"{git_host.url}/octo/hello")
    mirror = Mirror(tmp_path / "mirrors", remote, **options)
    mirror.fetch(MAIN, commit)  # the owner's way in works
    with pytest.raises(GitError) as error:
        mirror.checkout(commit, tmp_path / "out", submodules=True)
    assert f'submodules = ["{place}/owner/private"]' in error.value.mend
    there = [one.read_bytes() for one in (tmp_path / "out").rglob("*") if one.is_file()]
    assert b"own words" not in b"".join(there)
    lent = Mirror(tmp_path / "mirrors", remote, lent=lambda key: key.endswith("/private"), **options)
    lent.checkout(commit, tmp_path / "lent", submodules=True)
    assert (tmp_path / "lent" / "x" / "secret").read_text() == "the owner's own words"


def test_a_stranger_shows_nothing_of_the_owners(
    witness: Witness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login owner password hunter2\n")
    (tmp_path / ".gitconfig").write_text(
        "[http]\n\textraHeader = Authorization: Basic hunter2\n\tuserAgent = hunter2\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GIT_CONFIG_GLOBAL")
    monkeypatch.setenv("PUSHTRAIN_GIT_TOKEN", "hunter2")
    url = f"http://{witness.place}/octo/lib"
    with pytest.raises(Exception, match=r"octo/lib|not found"):
        Git(None, url, "", stranger=True).run("ls-remote", "--", url)
    assert witness.asked
    assert "hunter2" not in "".join(witness.shown)
    assert "authorization" not in "".join(witness.shown).lower()


# --- the owner's network ---


@pytest.mark.parametrize(
    "form",
    ["http://{place}/x", "http://localhost:{port}/x", "http://2130706433:{port}/x", "http://[::ffff:127.0.0.1]:{port}/x",
     "http://127.1:{port}/x", "http://0x7f000001:{port}/x", "http://169.254.169.254/latest", "http://router.lan/x",
     "git@localhost:x/y", "ssh://git@127.0.0.1:{port}/x"],
)  # fmt: skip
def test_a_submodule_reaches_nothing_of_the_owners_network(
    witness: Witness, tmp_path: Path, form: str
) -> None:
    forge = Forge(tmp_path / "origin.git")
    work = WorkRepository(tmp_path / "work", forge.url)
    commit = with_submodule(work, form.format(place=witness.place, port=witness.server_port))
    mirror = Mirror(tmp_path / "mirrors", Repository(key="github.com/octo/hello", remote=forge.url))
    mirror.fetch(MAIN, commit)
    with pytest.raises(GitError):
        mirror.checkout(commit, tmp_path / "out", submodules=True)
    assert witness.asked == []


def test_a_redirect_leads_a_stranger_nowhere(witness: Witness, tmp_path: Path) -> None:
    location = f"http://{witness.place}/inside/info/refs?service=git-upload-pack"
    with Witness((302, {"Location": location}, b"")) as lure:
        thread = threading.Thread(target=lure.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        forge = Forge(tmp_path / "origin.git")
        work = WorkRepository(tmp_path / "work", forge.url)
        commit = with_submodule(work, f"http://{lure.place}/octo/lib")
        remote = Repository(key="github.com/octo/hello", remote=forge.url)
        mirror = Mirror(tmp_path / "mirrors", remote, outward=Outward((lure.place,)))
        mirror.fetch(MAIN, commit)
        with pytest.raises(GitError):
            mirror.checkout(commit, tmp_path / "out", submodules=True)
        lure.shutdown()
        thread.join()
    assert lure.asked
    assert witness.asked == []


# --- what .gitmodules may say ---


@pytest.mark.parametrize(
    "text",
    [
        '[submodule "x"]\n\tpath = x\n\turl = ext::sh -c touch% {witness}\n',
        '[submodule "x"]\n\tpath = x\n\turl = -u./payload\n',
        '[submodule "x"]\n\tpath = x\n\turl = ssh://-oProxyCommand=touch${IFS}{witness}/x\n',
        '[submodule "x"]\n\tpath = x\n\turl = git@-oProxyCommand=x:y\n',
        '[submodule "x"]\n\tpath = x\n\turl = fd::17\n',
        '[submodule "x"]\n\tpath = x\n\turl = file:///etc\n',
        '[submodule "x"]\n\tpath = x\n\turl = /etc\n',
        '[submodule "x"]\n\tpath = x\n\turl = "https://h/x\\nhost=evil"\n',
        '[submodule "x"]\n\tpath = x\n\turl = ../lib.git\n\tupdate = !touch {witness}\n',
        '[submodule "../../x"]\n\tpath = ../../x\n\turl = ../lib.git\n',
        '[submodule "x"]\n\tpath = -x\n\turl = ../lib.git\n',
        '[include]\n\tpath = /etc/passwd\n[submodule "x"]\n\tpath = y\n\turl = ../lib.git\n',
    ],
    ids=range(12),
)
@pytest.mark.parametrize("checks", [True, False], ids=["fsck", "without-fsck"])
def test_nothing_that_gitmodules_says_is_run_or_read(
    tmp_path: Path, text: str, checks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not checks:
        plain = tuple(one for one in gitcommand.SAFE if not one.startswith("fetch.fsckObjects"))
        monkeypatch.setattr(gitcommand, "SAFE", plain)
    witness = tmp_path / "witness"
    forge, lib = Forge(tmp_path / "origin.git"), Forge(tmp_path / "lib.git")
    child = lib.push([(FILE, "lib.py", lib.blob("x"))])
    modules = forge.blob(text.replace("{witness}", str(witness)))
    commit = forge.push([(FILE, ".gitmodules", modules), (MODULE, "x", child)])
    remote = Repository(key="github.com/octo/hello", remote=forge.url)
    mirror = Mirror(tmp_path / "mirrors", remote, lent=lambda _: True)
    with contextlib.suppress(PushtrainError):
        mirror.fetch(MAIN, commit)
        mirror.checkout(commit, tmp_path / "out", submodules=True)
    assert not witness.exists()
    assert not (tmp_path.parent / "x").exists()
    assert {one.name for one in (tmp_path / "out").rglob("*")} <= {".gitmodules", "x", "lib.py"}


def test_more_submodules_than_the_limit_are_refused_before_one_is_fetched(tmp_path: Path) -> None:
    forge = Forge(tmp_path / "origin.git")
    text = "".join(f'[submodule "{n}"]\n\tpath = m{n}\n\turl = ../lib.git\n' for n in range(201))
    links = [(MODULE, f"m{n}", "1" * 40) for n in range(201)]
    commit = forge.push([(FILE, ".gitmodules", forge.blob(text)), *links])
    remote = Repository(key="github.com/octo/hello", remote=forge.url)
    mirror = Mirror(tmp_path / "mirrors", remote, lent=lambda _: True)
    mirror.fetch(MAIN, commit)
    with pytest.raises(GitError, match="over 200"):
        mirror.checkout(commit, tmp_path / "out", submodules=True)
    assert [one.name for one in mirror.home.glob("*.git")] == [mirror.folder.name]


# --- LFS ---


def test_an_lfs_server_of_the_commits_choice_gets_no_credential_and_is_no_way_into_the_network(
    witness: Witness, tmp_path: Path
) -> None:
    pointer = lfs.Pointer("ab" * 32, 1000)
    forge = Forge(tmp_path / "origin.git")
    config = f'[lfs]\n\turl = http://{witness.place}/lfs\n[lfs "customtransfer.evil"]\n\tpath = touch\n'
    files = [(FILE, "big.bin", forge.blob(pointer.text())), (FILE, ".lfsconfig", forge.blob(config))]
    commit = forge.push(files)
    mirror = Mirror(tmp_path / "mirrors", Repository(key="github.com/octo/hello", remote=forge.url))
    mirror.fetch(MAIN, commit)
    with pytest.raises(GitError, match=r"\.lfsconfig"):
        mirror.checkout(commit, tmp_path / "out")
    assert witness.asked == []


def test_the_remotes_own_lfs_server_is_not_asked_in_clear_because_a_commit_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forge = Forge(tmp_path / "origin.git")
    config = "[lfs]\n\turl = http://host.example.org/octo/hello.git/info/lfs\n"
    pointer = lfs.Pointer("ab" * 32, 1000)
    commit = forge.push(
        [(FILE, "big.bin", forge.blob(pointer.text())), (FILE, ".lfsconfig", forge.blob(config))]
    )
    mirror = Mirror(tmp_path / "mirrors", Repository(key="github.com/octo/hello", remote=forge.url))
    mirror.fetch(MAIN, commit)
    git = replace(mirror.git, remote="https://host.example.org/octo/hello.git", token="hunter2")
    strangers: list[str] = []

    def approached(url: str, _: Outward, *, what: str) -> tuple[str, tuple[str, ...]]:
        strangers.append(url)
        raise GitError(what)

    monkeypatch.setattr(lfs, "approach", approached)
    with pytest.raises(GitError, match="LFS server"):
        lfs.fetch(git, commit, {"big.bin": pointer}, stop=None)
    assert strangers == ["http://host.example.org/octo/hello.git/info/lfs"]


def test_lfs_files_beyond_the_limit_are_not_asked_for(tmp_path: Path) -> None:
    pointer = lfs.Pointer("ab" * 32, 1 << 45)
    forge = Forge(tmp_path / "origin.git")
    commit = forge.push([(FILE, "big.bin", forge.blob(pointer.text()))])
    mirror = Mirror(tmp_path / "mirrors", Repository(key="github.com/octo/hello", remote=forge.url))
    mirror.fetch(MAIN, commit)
    with pytest.raises(GitError, match="come to"):
        mirror.checkout(commit, tmp_path / "out")
