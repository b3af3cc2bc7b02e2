"""One file, many writers: nothing is lost, and our own branch never grows. Real git and real remotes."""

import json
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from depth import tries
from pushtrain.core.errors import CredentialError, GitError, NotFound, PushRejected
from pushtrain.core.settings import Repository
from pushtrain.core.wire.place import Place
from pushtrain.core.wire.roster import parse, sign_card, with_card
from pushtrain.core.wire.signing import public_text
from pushtrain.demo.host import Host
from pushtrain.plumbing.git.commits import parse_heads
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.git.rosterfile import Look, RosterFile
from pushtrain.testing import NOON, WorkRepository, a_card
from spoilt import spoil

Make = Callable[..., WorkRepository]
OWN = "pushtrain/config"
WHEN = int(NOON)


@pytest.fixture
def origin(tmp_path: Path) -> str:
    folder = tmp_path / "origin.git"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(folder)], check=True)
    return str(folder)


def file_of(
    folder: Path, remote: str, *, branch: str = OWN, path: str = "config.json", token: str = "", **given: Any
) -> RosterFile:
    """A writer with a mirror of its own, as another machine has it; never pauses."""
    repository = Repository(key="github.com/octo/hello", remote=remote)
    place = Place(repository=repository, branch=branch, path=path)
    given = {"jitter": lambda: 0.0, "pause": lambda _: None, **given}
    return RosterFile(Mirror(folder, repository, token=token), place, **given)


def add(line: str) -> Callable[[str], str]:
    return lambda text: text + f"{line}\n"


def git(remote: str, *words: str) -> str:
    return subprocess.run(
        ["git", "--git-dir", remote, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_roster_in_a_mirror_that_proves_damaged_is_read_from_a_new_one(tmp_path: Path, origin: str) -> None:
    roster = file_of(tmp_path / "m", origin)
    tip = roster.write(add("one"), message="a card", when=WHEN).commit
    assert roster.read_at(tip) == "one\n"
    spoil(roster.mirror, f"{tip}:config.json")
    assert roster.read().text == "one\n"
    spoil(roster.mirror, f"{tip}:config.json")
    assert roster.read_at(tip) == "one\n"


def test_a_place_that_is_not_there_yet_is_empty_and_the_first_write_makes_it(
    tmp_path: Path, origin: str
) -> None:
    roster = file_of(tmp_path / "m", origin)
    assert roster.read() == Look("", "")
    written = roster.write(add("one"), message="First", when=WHEN)
    assert (written.text, written.tries) == ("one\n", 1)
    assert roster.read() == Look(written.commit, "one\n")
    assert git(origin, "log", "-1", "--format=%s %ct", OWN) == f"First {WHEN}"


def test_our_own_branch_is_one_commit_however_often_it_is_written(tmp_path: Path, origin: str) -> None:
    roster = file_of(tmp_path / "m", origin)
    for number in range(3):
        roster.write(add(str(number)), message="Card", when=WHEN)
    assert roster.read().text == "0\n1\n2\n"
    assert git(origin, "rev-list", "--count", OWN) == "1"


def test_on_our_own_branch_the_other_files_stay_as_they_are(tmp_path: Path, origin: str) -> None:
    roster, beside = (file_of(tmp_path / "m", origin, path=path) for path in ("config.json", "secrets.json"))
    roster.write(add("card"), message="Card", when=WHEN)
    deep = file_of(tmp_path / "n", origin, path="deep/notes.md")
    deep.write(add("note"), message="Note", when=WHEN)
    beside.write(add("sealed"), message="Secret", when=WHEN)
    roster.write(add("card 2"), message="Card", when=WHEN)
    assert (roster.read().text, beside.read().text, deep.read().text) == (
        "card\ncard 2\n",
        "sealed\n",
        "note\n",
    )
    assert git(origin, "rev-list", "--count", OWN) == "1"
    assert git(origin, "ls-tree", "-r", "--name-only", OWN).split() == [
        "config.json",
        "deep/notes.md",
        "secrets.json",
    ]


def test_two_files_of_one_branch_are_written_at_once_through_one_mirror(tmp_path: Path, origin: str) -> None:
    files = [file_of(tmp_path / "m", origin, path=path) for path in ("config.json", "secrets.json")]
    files[0].write(add("begin"), message="Card", when=WHEN)
    trouble: list[BaseException] = []

    def write(file: RosterFile) -> None:
        try:
            for number in range(6):
                file.write(add(f"{number}"), message="Change", when=WHEN)
        except BaseException as error:  # noqa: BLE001  told below
            trouble.append(error)

    threads = [threading.Thread(target=write, args=(file,)) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trouble == []
    assert [file.read().text for file in files] == ["begin\n0\n1\n2\n3\n4\n5\n", "0\n1\n2\n3\n4\n5\n"]


def test_on_a_branch_of_people_a_write_is_an_ordinary_commit_beside_their_files(
    tmp_path: Path, origin: str, repository: Make
) -> None:
    work = repository("work", remote=origin)
    before = work.commit({"train.py": "1", "lab/notes.md": "2"})
    work.push()
    roster = file_of(tmp_path / "m", origin, branch="main", path="lab/config.json")
    roster.write(add("one"), message="Card", when=WHEN)
    commit = roster.write(add("two"), message="Card", when=WHEN).commit
    assert work.fetch("main") == commit
    assert work.git("rev-list", f"{before}..{commit}", "--count") == "2"
    assert work.files(commit) == ["lab/config.json", "lab/notes.md", "train.py"]
    assert work.show(commit, "lab/config.json") == "one\ntwo"


def test_nothing_to_change_is_no_commit(tmp_path: Path, origin: str) -> None:
    roster = file_of(tmp_path / "m", origin)
    first = roster.write(add("one"), message="Card", when=WHEN)
    assert roster.write(lambda text: text, message="Card", when=WHEN).commit == ""
    assert roster.read().tip == first.commit


def test_bytes_that_are_no_text_survive_the_round_trip(tmp_path: Path, origin: str, repository: Make) -> None:
    work = repository("work", remote=origin)
    work.commit({"config.json": b"\xff\x00\r\n"})
    work.push()
    commit = file_of(tmp_path / "m", origin, branch="main").write(add("x"), message="Card", when=WHEN).commit
    shown = subprocess.run(
        ["git", "--git-dir", origin, "show", f"{commit}:config.json"], check=True, capture_output=True
    )
    assert shown.stdout == b"\xff\x00\r\nx\n"


@pytest.mark.parametrize("branch", [OWN, "main"])
def test_who_is_overtaken_makes_the_change_again_on_what_is_there_now(
    tmp_path: Path, origin: str, branch: str
) -> None:
    mine, theirs = (file_of(tmp_path / name, origin, branch=branch) for name in ("mine", "theirs"))
    theirs.write(add("theirs 0"), message="Card", when=WHEN)
    rivals = iter(["theirs 1", "theirs 2"])

    def change(text: str) -> str:
        if (line := next(rivals, None)) is not None:
            theirs.write(add(line), message="Card", when=WHEN)
        return text + "mine\n"

    written = mine.write(change, message="Card", when=WHEN)
    assert written.tries == 3
    assert mine.read().text == "theirs 0\ntheirs 1\ntheirs 2\nmine\n"


def test_two_who_make_the_branch_at_once_do_not_overwrite_each_other(tmp_path: Path, origin: str) -> None:
    mine, theirs = (file_of(tmp_path / name, origin) for name in ("mine", "theirs"))
    rivals = iter(["theirs"])

    def change(text: str) -> str:
        if (line := next(rivals, None)) is not None:
            theirs.write(add(line), message="Card", when=WHEN)
        return text + "mine\n"

    assert mine.write(change, message="Card", when=WHEN).tries == 2
    assert mine.read().text == "theirs\nmine\n"


def test_whoever_is_overtaken_for_ever_gives_up_and_had_paused_at_random(tmp_path: Path, origin: str) -> None:
    pauses: list[float] = []
    chances = iter([0.25, 0.5] * 500)
    mine = file_of(tmp_path / "m", origin, jitter=lambda: next(chances), pause=pauses.append)
    mine.write(add("one"), message="Card", when=WHEN)
    hook = Path(origin) / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'cannot lock ref' >&2\nexit 0\n")
    hook.chmod(0o755)
    (Path(origin) / "refs/heads/pushtrain/config.lock").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pushtrain.plumbing.git.rosterfile._TRIES", 4)
        with pytest.raises(PushRejected):
            mine.write(add("two"), message="Card", when=WHEN)
    assert len(pauses) == 3
    assert all(0 < pause <= 10 for pause in pauses)


def test_a_file_is_read_at_a_tip_that_somebody_saw(tmp_path: Path, origin: str) -> None:
    writer, reader = (file_of(tmp_path / name, origin) for name in ("writer", "reader"))
    first = writer.write(add("one"), message="Card", when=WHEN).commit
    assert reader.read_at(first) == "one\n"
    with pytest.raises(NotFound):
        reader.read_at("1" * 40)


def test_a_branch_without_the_file_reads_as_empty(tmp_path: Path, origin: str, repository: Make) -> None:
    work = repository("work", remote=origin)
    commit = work.commit({"config.json/x": "a folder", "train.py": "1"})
    work.push()
    reader = file_of(tmp_path / "m", origin, branch="main")
    assert reader.read() == Look(commit, "")
    assert reader.read_at(commit) == ""


def test_a_host_that_refuses_says_why_and_is_not_asked_twice(tmp_path: Path, git_host: Host) -> None:
    remote = git_host.create("octo/hello")
    with pytest.raises(CredentialError):
        file_of(tmp_path / "m", remote, token="wrong").write(add("x"), message="Card", when=WHEN)
    roster = file_of(tmp_path / "n", remote, token=git_host.token)
    written = roster.write(add("x"), message="Card", when=WHEN)
    assert roster.read() == Look(written.commit, "x\n")
    assert roster.write(add("y"), message="Card", when=WHEN).text == "x\ny\n"


def test_a_branch_that_the_host_protects_is_told_as_such(tmp_path: Path, origin: str) -> None:
    hook = Path(origin) / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(GitError) as error:
        file_of(tmp_path / "m", origin).write(add("x"), message="Card", when=WHEN)
    assert not isinstance(error.value, PushRejected)


def test_a_mirror_that_is_damaged_is_made_anew(tmp_path: Path, origin: str) -> None:
    roster = file_of(tmp_path / "m", origin)
    roster.write(add("one"), message="Card", when=WHEN)
    for pack in (tmp_path / "m").glob("*.git/objects/pack/*.pack"):
        pack.chmod(0o600)
        pack.write_bytes(b"")
    assert roster.write(add("two"), message="Card", when=WHEN).text == "one\ntwo\n"


@pytest.mark.slow
@pytest.mark.deep
@pytest.mark.timeout(500)
@pytest.mark.parametrize("branch", [OWN])
def test_four_executors_that_write_many_cards_each_at_once_lose_nothing(
    tmp_path: Path, origin: str, branch: str
) -> None:
    writes = tries(50, 200)
    git(origin, "config", "receive.autogc", "false")
    git(origin, "config", "core.logAllRefUpdates", "always")
    keys = [Ed25519PrivateKey.generate() for _ in range(4)]
    failures: list[Exception] = []

    def executor(number: int) -> None:
        key = keys[number]
        roster = RosterFile(
            Mirror(tmp_path / f"m{number}", file_of(tmp_path, origin).place.repository),
            file_of(tmp_path, origin, branch=branch).place,
        )
        try:
            for sequence in range(1, writes + 1):
                card = a_card(public_key=public_text(key.public_key()), sequence=sequence, expires=NOON + 1)
                signed = sign_card(card, key)
                roster.write(
                    lambda text, signed=signed: with_card(text, signed),  # type: ignore[misc]
                    message="Card",
                    when=WHEN,
                )
        except Exception as error:  # noqa: BLE001  the test's thread must hear of it
            failures.append(error)

    threads = [threading.Thread(target=executor, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert git(origin, "rev-list", "--count", branch) == "1"
    # Every tip that there ever was: no card goes back, none goes missing.
    log = Path(origin, "logs/refs/heads", branch).read_text().splitlines()
    assert len(log) == 4 * writes
    asked = "".join(f"{line.split()[1]}:config.json\n" for line in log)
    out = subprocess.run(
        ["git", "--git-dir", origin, "cat-file", "--batch"],
        input=asked.encode(),
        capture_output=True,
        check=True,
    ).stdout
    newest: dict[str, int] = {}
    roster = parse("")
    for found in parse_heads(out, len(log)):
        assert found is not None
        roster = parse(found[2].decode())
        cards = {one.fingerprint: one.card.sequence for one in roster.cards}
        assert sum(cards.values()) == sum(newest.values()) + 1
        assert all(cards[name] >= sequence for name, sequence in newest.items())
        newest = cards
    assert sorted(newest.values()) == [writes] * 4
    assert all(one.genuine for one in roster.cards)
    assert json.loads(git(origin, "show", f"{branch}:config.json"))["version"] == 1
