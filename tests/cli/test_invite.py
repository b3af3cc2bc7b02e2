"""`pushtrain invite` and `pushtrain join`: as two people say them, each on a machine of its own."""

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pushtrain.cli.app import run
from pushtrain.core.wire.invitation import TRIES
from pushtrain.core.wire.roster import sign_card, with_card
from pushtrain.core.wire.signing import fingerprint
from pushtrain.plumbing.disk.files import replace
from pushtrain.plumbing.disk.lock import FolderLock
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.keys.authorized import Authorized, Scope, Trusted, load_or_create
from pushtrain.plumbing.keys.invitations import Invitations
from pushtrain.testing import REPOSITORY, Clock, WorkRepository
from served import Served, served

Out = pytest.CaptureFixture[str]


class Now(Clock):
    """The machine's clock: verbs look at no other."""

    def __call__(self) -> float:
        return time.time()


@pytest.fixture
def borrower(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path / "borrower").create()


@contextmanager
def lending(folder: Path) -> Iterator[Served]:
    """An executor that serves its folder as `pushtrain executor` does: locked, with its card in it."""
    with served(folder, clock=Now()) as executor, FolderLock(executor.state.lock):
        executor.service.listens = ("127.0.0.1", executor.port)
        replace(executor.state.card, executor.service.card().model_dump_json().encode())
        yield executor


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[Served]:
    with lending(tmp_path / "lender") as one:
        yield one


def invited(executor: Served, capsys: Out, *flags: str) -> str:
    """The code of a new invitation."""
    capsys.readouterr()
    assert run(["invite", "--no-wait", "--json", "--state", str(executor.state.root), *flags]) == 0
    return str(json.loads(capsys.readouterr().out)["code"])


def joined(borrower: StateFolder, code: str, *flags: str) -> int:
    return run(["join", code, "--state", str(borrower.root), *flags])


def test_one_command_on_each_side_is_enough(executor: Served, borrower: StateFolder, capsys: Out) -> None:
    code = invited(
        executor, capsys, "--name", "ada", "--repo", REPOSITORY, "--scope", "send", "--branch", "exp/**",
        "--expires", "90d",
    )  # fmt: skip
    assert joined(borrower, code) == 0
    said = capsys.readouterr().out
    (entry,) = Trusted(borrower.trusted).entries()
    assert (entry.url, entry.name) == (executor.url, "lab-1")
    assert f"lab-1 ({fingerprint(executor.key.public_key())}) is trusted" in said
    assert f"You may send for {REPOSITORY}, branches exp/**, until " in said
    (grant,) = executor.authorized.grants()
    assert grant.public_key.startswith("ed25519:")
    assert (grant.name, grant.scopes, grant.branches) == ("ada", (Scope.SEND,), ("exp/**",))
    assert 89.9 * 86400 < (grant.expires or 0) - time.time() < 90.1 * 86400


def test_where_the_roster_tells_no_address_the_one_of_the_code_is_kept(
    executor: Served, borrower: StateFolder, capsys: Out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, clone = tmp_path / "host.git", tmp_path / "clone"
    work = WorkRepository(tmp_path / "work")
    card = sign_card(executor.service.card().model_copy(update={"public_url": ""}), executor.key)
    work.commit({"config.json": with_card("", card)})
    work.git("clone", "--quiet", "--bare", ".", str(host))
    work.git("--git-dir", str(host), "branch", "pushtrain/config")
    work.git("clone", "--quiet", str(host), str(clone))
    code = invited(executor, capsys)
    monkeypatch.chdir(clone)
    assert joined(borrower, code) == 0
    (entry,) = Trusted(borrower.trusted).entries()
    assert entry.url == executor.url
    assert run(["executor", "status", "--state", str(borrower.root)]) == 0
    assert executor.url in capsys.readouterr().out


def test_the_words_alone_are_no_address_and_say_where_to_stand(
    executor: Served, borrower: StateFolder, capsys: Out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = invited(executor, capsys).rpartition("/")[2]
    monkeypatch.chdir(tmp_path)
    assert joined(borrower, code) == 2
    assert "stand in a clone of the repository" in capsys.readouterr().err


def test_a_code_is_asked_for_when_it_is_left_out(
    executor: Served, borrower: StateFolder, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(invited(executor, capsys).upper() + "\n"))
    assert run(["join", "--name", "gpu", "--json", "--state", str(borrower.root)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["executor"]["name"] == "gpu"
    assert document["terms"]["scopes"] == ["send", "read", "cancel"]


def test_what_is_printed_says_what_to_do_where_there_is_no_tunnel(executor: Served, capsys: Out) -> None:
    assert run(["invite", "--no-wait", "--state", str(executor.state.root)]) == 0
    said = capsys.readouterr().out
    assert f"pushtrain join 127.0.0.1:{executor.port}/" in said
    assert "works on this machine only" in said
    assert "pushtrain key authorize KEY" in said
    assert "pushtrain key trust ed25519:" in said


def test_with_a_tunnel_the_short_form_is_told(executor: Served, capsys: Out) -> None:
    executor.service.url = "https://lab-3.example.org"
    replace(executor.state.card, executor.service.card().model_dump_json().encode())
    assert run(["invite", "--no-wait", "--valid", "1h", "--state", str(executor.state.root)]) == 0
    said = capsys.readouterr().out
    assert "pushtrain join lab-3.example.org/" in said
    assert f"In a clone of {REPOSITORY} `pushtrain join " in said
    assert "by hand" not in said
    assert "1 h 00 m" in said


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--valid", "2d"], "longer than a day"),
        (["--valid", "soon"], "is not a duration"),
        (["--expires", "soon"], "is no date"),
        (["--name", "two words"], "cannot stand in a key file"),
        (["--repo", "hello"], "is no repository"),
        (["--branch", "["], "is no pattern"),
        (["--repo", "github.com/["], "is no pattern"),
        (["--branch", "a b"], "cannot stand in a key file"),
    ],
)
def test_a_mistake_is_one_line_and_no_invitation(
    executor: Served, capsys: Out, flags: list[str], told: str
) -> None:
    assert run(["invite", *flags, "--state", str(executor.state.root)]) == 2
    assert told in capsys.readouterr().err
    assert Invitations(executor.state.invitations).open(time.time()) == []


def test_without_an_executor_nobody_can_be_invited(tmp_path: Path, capsys: Out) -> None:
    lender = StateFolder(tmp_path / "lender").create()
    assert run(["invite", "--state", str(lender.root)]) == 2
    said = capsys.readouterr().err
    assert "No executor runs on this state folder" in said
    assert "pushtrain key trust ed25519:" in said
    with served(lender.root) as executor:  # it left its card behind when it was killed
        replace(lender.card, executor.service.card().model_dump_json().encode())
        assert run(["invite", "--state", str(lender.root)]) == 2


def test_an_executor_is_not_invited_by_itself(executor: Served, capsys: Out) -> None:
    code = invited(executor, capsys)
    assert run(["join", code, "--state", str(executor.state.root)]) == 2
    assert "executor of this state folder" in capsys.readouterr().err
    assert len(Invitations(executor.state.invitations).open(time.time())) == 1


def test_a_wrong_code_is_one_line_with_its_mend(executor: Served, borrower: StateFolder, capsys: Out) -> None:
    address = invited(executor, capsys).rpartition("/")[0]
    assert joined(borrower, f"{address}/lusab-babad-gutih-tugad") == 4
    said = capsys.readouterr().err
    assert "does not know this invitation" in said
    assert "Ask the owner for a new code" in said
    assert not borrower.trusted.exists()
    assert joined(borrower, "nonsense") == 2


def test_a_used_code_names_who_used_it(
    executor: Served, borrower: StateFolder, tmp_path: Path, capsys: Out
) -> None:
    code = invited(executor, capsys)
    assert joined(borrower, code) == 0
    late = StateFolder(tmp_path / "late").create()
    assert joined(late, code) == 6
    said = capsys.readouterr().err
    first = fingerprint(load_or_create(borrower.key).public_key())
    assert f"used by another key, {first}" in said
    assert f"pushtrain key revoke {first}" in said
    assert not late.trusted.exists()


# --- the owner who waits ----------------------------------------------------------------------------------


@contextmanager
def waiting(executor: Served, *flags: str) -> "Iterator[tuple[subprocess.Popen[str], str]]":
    """`pushtrain invite` as a process that waits, and its code."""
    argv = (sys.executable, "-P", "-m", "pushtrain", "invite", "--state", str(executor.state.root), *flags)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            lines = ""
            while "pushtrain join " not in lines:
                line = process.stdout.readline()
                assert line, process.communicate()
                lines += line
            yield process, lines.split("pushtrain join ")[1].split()[0]
        finally:
            process.kill()


def test_who_waits_is_told_who_joined(executor: Served, borrower: StateFolder) -> None:
    with waiting(executor, "--name", "ada") as (process, code):
        assert joined(borrower, code) == 0
        out, err = process.communicate(timeout=30)
    key_id = fingerprint(load_or_create(borrower.key).public_key())
    assert process.returncode == 0, err
    assert f"ada ({key_id}) joined, and may send, read, cancel" in out
    assert "pushtrain key revoke ada" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_goes_away_takes_the_code_back(executor: Served, borrower: StateFolder, number: int) -> None:
    with waiting(executor) as (process, code):
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == 130
    assert Invitations(executor.state.invitations).open(time.time()) == []
    assert joined(borrower, code) == 4


def test_who_waits_too_long_is_told(executor: Served, borrower: StateFolder) -> None:
    with waiting(executor, "--valid", "1s") as (process, code):
        _, err = process.communicate(timeout=30)
    assert process.returncode == 7
    assert "Nobody joined in time" in err
    assert joined(borrower, code) == 4, "and the invitation is gone"


def test_who_waits_sees_that_somebody_interferes(executor: Served, borrower: StateFolder) -> None:
    with waiting(executor) as (process, code):
        (made,) = Invitations(executor.state.invitations).open(time.time())
        executor.service.admission.doubt(made.name)
        assert process.stdout
        told = ""
        while "did not know its code (1 of 3)" not in told:
            told = process.stdout.readline()
            assert told
        for _ in range(TRIES - 1):
            executor.service.admission.doubt(made.name)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 4
    assert "a machine between the two sides changes what they send" in err
    assert joined(borrower, code) == 4
    assert Authorized(executor.state.authorized).grants() == []


# --- what is kept to oneself ------------------------------------------------------------------------------


def test_no_secret_is_written_or_said_but_the_code_once(
    executor: Served, borrower: StateFolder, capsys: Out, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    code = invited(executor, capsys)
    words = code.rpartition("/")[2]
    assert joined(borrower, code, "--json") == 0
    said = capsys.readouterr()
    private = [load_or_create(state.key) for state in (executor.state, borrower)]
    hidden = [words.encode(), *(key.private_bytes_raw() for key in private)]
    hidden += [key.private_bytes_raw().hex().encode() for key in private]
    written = b"".join(
        path.read_bytes()
        for state in (executor.state, borrower)
        for path in state.root.rglob("*")
        if path.is_file() and path != state.key
    )
    for place in (written, said.out.encode(), said.err.encode(), caplog.text.encode()):
        assert not any(secret in place for secret in hidden)


def test_a_process_that_waits_holds_no_code_in_its_arguments(executor: Served) -> None:
    with waiting(executor) as (process, code):
        words = code.rpartition("/")[2].encode()
        assert words not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert words not in Path(f"/proc/{process.pid}/environ").read_bytes()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
