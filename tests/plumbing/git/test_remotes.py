"""Remotes, keys, refs and git's complaints: what comes from outside before git sees it."""

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.errors import (
    CredentialError,
    GitError,
    NotFound,
    PushRejected,
    StorageError,
    UsageError,
)
from pushtrain.plumbing.git.command import Git
from pushtrain.plumbing.git.complaint import (
    BrokenRepository,
    Killed,
    PushDeclined,
    Unanswered,
    UnsafeContent,
    explain,
)
from pushtrain.plumbing.git.remotes import check_commit, check_ref, key_of, masked, validate_remote
from pushtrain.plumbing.programs.process import Completed


def test_a_remote_that_never_answers_is_given_up_after_its_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/octo/hello"
        with pytest.raises(GitError, match=r"list branches: it took longer than 0\.2 s") as caught:
            Git(None, url).run("ls-remote", "--", url, doing="list branches", timeout=0.2)
    assert "tried again" in caught.value.mend


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://github.com/octo/hello", "github.com/octo/hello"),
        ("https://GitHub.com/octo/Hello.git", "github.com/octo/Hello"),
        ("https://github.com:443/octo/hello/", "github.com/octo/hello"),
        ("http://127.0.0.1:8080/octo/hello.git", "127.0.0.1:8080/octo/hello"),
        ("ssh://git@github.com/octo/hello.git", "github.com/octo/hello"),
        ("ssh://git@host.example:2222/group/sub/hello", "host.example:2222/group/sub/hello"),
        ("git@github.com:octo/hello.git", "github.com/octo/hello"),
        ("file:///srv/git/hello.git", "localhost/srv/git/hello"),
        ("/srv/git/hello.git", "localhost/srv/git/hello"),
    ],
)
def test_a_remote_has_a_key_of_host_and_path(url: str, key: str) -> None:
    assert key_of(url) == key


@pytest.mark.parametrize(
    "url",
    [
        "",
        "--upload-pack=touch /tmp/x",
        "-oProxyCommand=x:y",
        "ext::sh -c id",
        "fd::17",
        "git://github.com/octo/hello",
        "ftp://github.com/octo/hello",
        "https://github.com/octo/hello?x=1",
        "https://github.com/octo/hello#x",
        "https:///octo/hello",
        "https://host:99999/x",
        "ssh://-oProxyCommand=id/x",
        "-host:path",
        "relative/path",
        "../hello",
        "file://other.example/srv/x",
        "https://github.com/octo/he llo",
        "https://github.com/octo/hello\n",
    ],
)
def test_what_is_not_a_plain_remote_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        validate_remote(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://octo:hunter2@github.com/octo/hello",
        "https://x-access-token:ghs_abc@github.com/octo/hello",
        "https://ghp_0123456789@github.com/octo/hello",
        "https://github_pat_11AAA@github.com/octo/hello",
    ],
)
def test_a_remote_with_a_password_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(UsageError) as error:
        validate_remote(url)
    assert "hunter2" not in str(error.value)
    assert "gh" not in error.value.message
    assert "credential helper" in error.value.mend


@pytest.mark.parametrize(
    "url", ["https://github.com/octo/a b".replace(" ", "%20"), "/srv/x/../y", "/srv/a+b"]
)
def test_a_remote_that_no_key_can_name_says_to_name_one(url: str) -> None:
    with pytest.raises(UsageError, match=r"key") as error:
        key_of(url)
    assert "settings.toml" in error.value.mend


@given(st.text(max_size=60))
def test_any_text_is_a_remote_or_a_usage_error(text: str) -> None:
    try:
        assert validate_remote(text) == text
    except UsageError:
        return
    assert not text.startswith("-")
    assert "::" not in text.split("/", maxsplit=1)[0]


@pytest.mark.parametrize("ref", ["refs/heads/main", "refs/tags/v1.0", "refs/heads/a/b-c_d.e", "refs/heads/ü"])
def test_full_refs_pass(ref: str) -> None:
    assert check_ref(ref) == ref


@pytest.mark.parametrize(
    "ref",
    ["main", "refs/heads/", "refs/heads/a..b", "refs/heads/a b", "refs/heads/a^", "refs/heads/x.lock",
     "--all", "refs/heads/a:b", "refs/heads//a", "refs/heads/.a", "refs/heads/a@{1}", "refs/heads/a\n"],
)  # fmt: skip
def test_what_git_would_not_take_as_a_ref_is_refused(ref: str) -> None:
    with pytest.raises(UsageError):
        check_ref(ref)


@pytest.mark.parametrize("commit", ["HEAD", "abc", "--x", "g" * 40, "a" * 41, "A" * 40])
def test_only_full_commit_ids_are_commits(commit: str) -> None:
    with pytest.raises(UsageError):
        check_commit(commit)


_SSH_SAYS = (
    "fatal: Could not read from remote repository.\n\n"
    "Please make sure you have the correct access rights\nand the repository exists."
)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("fatal: Authentication failed for 'https://github.com/x/y/'", CredentialError),
        (
            "fatal: could not read Username for 'https://github.com': terminal prompts disabled",
            CredentialError,
        ),
        (
            "git@github.com: Permission denied (publickey).\nfatal: Could not read from remote",
            CredentialError,
        ),
        ("Host key verification failed.", CredentialError),
        ("remote: Repository not found.\nfatal: repository 'https://x/' not found", NotFound),
        ("fatal: '/srv/nowhere' does not appear to be a git repository", NotFound),
        ("fatal: unable to access 'https://x/': Could not resolve host: x", Unanswered),
        ("error: file write error: No space left on device", StorageError),
        (" ! [rejected]        a -> b (fetch first)\nerror: failed to push some refs", PushRejected),
        (" ! [remote rejected] a -> b (cannot lock ref 'b': is at 1 but expected 2)", PushRejected),
        (" ! [remote rejected] a -> b (failed to update ref)", PushRejected),
        (" ! [remote rejected] a -> b (pre-receive hook declined)", PushDeclined),
        (" ! [remote rejected] a -> b (protected branch hook declined)", PushDeclined),
        ("error: RPC failed; HTTP 413 curl 22 The requested URL returned error: 413", PushDeclined),
        ("remote: error: GH001: Large files detected.\n ! [remote rejected] a -> b (x)", PushDeclined),
        ("error: object file objects/ab/cd is empty\nfatal: loose object is corrupt", BrokenRepository),
        ("error: refs/fetched/a does not point to a valid object!\nfatal: bad object 1234", BrokenRepository),
        ("fatal: packed object 1 (stored in /s/octo+classlib.git/1.pack) is corrupt", BrokenRepository),
        ("fatal: unable to access 'https://x/classlib/': SSL certificate problem: expired", Unanswered),
        ("remote: fatal: bad object 1234\nfatal: protocol error: bad pack header", GitError),
        ("remote: error: missing blob 1234\nfatal: the remote end aborted", GitError),
        ("error: index-pack died of signal 9\nfatal: fetch-pack: invalid index-pack output", Killed),
        ("remote: error: pack-objects died of signal 9\nfatal: early EOF", Unanswered),
        ("error: pack-objects died of signal 9\nfatal: early EOF", Unanswered),
        ("error: index-pack died of signal 25\nfatal: fetch-pack: invalid index-pack output", UnsafeContent),
        ("fatal: early EOF\nfatal: fetch-pack: invalid index-pack output", Unanswered),
        ("error: 60 bytes of body are still expected\nfatal: protocol error: bad pack header", Unanswered),
        ("error: 3 bytes of length header were received\nfatal: expected flush after ref", Unanswered),
        (f"ssh: connect to host a.b port 22: No route to host\n{_SSH_SAYS}", Unanswered),
        (f"kex_exchange_identification: Connection closed by remote host\n{_SSH_SAYS}", Unanswered),
        (f"Connection to a.b closed by remote host.\n{_SSH_SAYS}", Unanswered),
        (f"client_loop: send disconnect: Broken pipe\n{_SSH_SAYS}", Unanswered),
        ("fatal: unable to access 'https://x/': Empty reply from server", Unanswered),
        ("fatal: unable to access 'https://x/': HTTP/2 stream 1 was not closed cleanly", Unanswered),
        ("fatal: unable to access 'https://x/': The requested URL returned error: 403", CredentialError),
        (
            "batch response: Fatal error: Server error &{%!!(string=http)}s(MISSING) from HTTP 503",
            Unanswered,
        ),
        ("batch response: Post: dial tcp: lookup a.b: no such host", Unanswered),
        ("fetch-pack: unexpected disconnect while reading sideband packet", Unanswered),
        ("fatal: Out of memory, malloc failed\nfatal: early EOF", UnsafeContent),
        ("fatal: fetch-pack: invalid index-pack output", UnsafeContent),
        ("fatal: something new", GitError),
    ],
)
def test_gits_complaint_becomes_the_error_that_fits(said: str, kind: type[Exception]) -> None:
    error = explain(Completed(("git",), 128, b"", said.encode()), "fetch")
    assert type(error) is kind
    assert error.message.startswith("git could not fetch: ")


def test_an_error_shows_no_credentials_and_no_hints() -> None:
    said = "hint: try harder\nfatal: unable to access 'https://octo:s3cret@x.example/y': boom"
    error = explain(Completed(("git",), 128, b"", said.encode()), "push")
    assert "s3cret" not in str(error)
    assert "hint" not in str(error)
    assert masked("https://a:b@c/d") == "https://***@c/d"


def test_a_missing_git_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GitError, match="not installed") as error:
        Git().run("version")
    assert "apt install git" in error.value.mend


def test_foreign_git_variables_lead_git_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", "'core.hooksPath=/tmp/hooks'")
    Git().run("init", "--quiet", "--bare", tmp_path / "x.git")
    git = Git(tmp_path / "x.git")
    assert git.run("rev-parse", "--absolute-git-dir").text == str(tmp_path / "x.git")
    assert git.run("config", "core.hooksPath").text == "/dev/null"


def test_a_token_answers_for_its_own_host_only_and_is_in_no_argument(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    (tmp_path / "config").write_text("[credential]\n\thelper = store\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    git = Git(None, "https://host.example/o/r", "s3cret")
    mine = git.run("credential", "fill", input=b"protocol=https\nhost=host.example\n\n")
    assert "password=s3cret" in mine.text
    assert "s3cret" not in " ".join(mine.argv)
    assert "s3cret" not in repr(git)
    other = git.run("credential", "fill", input=b"protocol=https\nhost=evil.example\n\n", ok=(0, 128))
    assert "s3cret" not in other.text
    git.run(
        "credential", "approve", input=b"protocol=https\nhost=host.example\nusername=u\npassword=s3cret\n\n"
    )
    assert not (tmp_path / ".git-credentials").exists()


def test_git_and_what_it_starts_get_none_of_our_other_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    others = (
        "PUSHTRAIN_KEY",
        "PUSHTRAIN_HOST_TOKEN",
        "PUSHTRAIN_WEBHOOK_SECRET",
        "PUSHTRAIN_GIT_TOKEN",
        "NGROK_AUTHTOKEN",
        "HF_TOKEN",
    )
    for name in others:
        monkeypatch.setenv(name, "canary")
    shown = Git(None, "https://host.example/o/r").run("-c", "alias.tell-env=!env", "tell-env").text
    assert "PATH=" in shown
    assert "canary" not in shown


def test_more_output_than_wanted_is_an_error_and_never_cut_in_silence() -> None:
    with pytest.raises(GitError, match="more than 10 bytes"):
        Git().run("help", "-a", limit=10)


def test_a_folder_with_a_space_in_its_name_is_refused_for_that_reason() -> None:
    with pytest.raises(UsageError, match="holds a space or a control character"):
        validate_remote("/srv/my models.git")
