"""The folder of invitations: real files, real processes, any order of events, a kill at any line."""

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from pushtrain.core.errors import NotFound, PushtrainError, StorageError
from pushtrain.core.wire.grants import Terms
from pushtrain.core.wire.invitation import TRIES, Invitation, Keys, Standing, invitation
from pushtrain.core.wire.signing import public_text
from pushtrain.plumbing.keys.invitations import Invitations
from pushtrain.testing import NOON

PEOPLE: Final = tuple(
    public_text(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32).public_key())
    for number in range(3)
)
ADA = PEOPLE[0]


def made(name: str = "A" * 22, *, now: float = NOON, lifetime: float = 600) -> Invitation:
    return invitation(Keys(name, b"a" * 32, b"b" * 32), terms=Terms(), now=now, lifetime=lifetime)


@pytest.fixture
def invitations(tmp_path: Path) -> Invitations:
    return Invitations(tmp_path / "invitations")


def test_files_and_folder_are_private(invitations: Invitations, tmp_path: Path) -> None:
    invitations.keep(made(), NOON)
    invitations.join("A" * 22, ADA, NOON, lambda _: None)
    folder = tmp_path / "invitations"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert [path.name for path in folder.iterdir()] == ["A" * 22 + ".json"]


@pytest.mark.parametrize("name", ["", "../identity.key", "A" * 21, "A" * 23, "A" * 21 + "B", "." * 22])
def test_only_a_name_of_the_right_form_is_looked_for(
    invitations: Invitations, name: str, tmp_path: Path
) -> None:
    (tmp_path / "invitations").mkdir()
    assert invitations.find(name) is None


def test_a_damaged_file_is_no_invitation(invitations: Invitations, tmp_path: Path) -> None:
    invitations.keep(made(), NOON)
    (tmp_path / "invitations" / ("A" * 22 + ".json")).write_text("{")
    assert invitations.find("A" * 22) is None
    with pytest.raises(NotFound):
        invitations.join("A" * 22, ADA, NOON, lambda _: None)


def test_those_that_are_over_for_a_day_are_forgotten(invitations: Invitations) -> None:
    invitations.keep(made("A" * 22), NOON)
    invitations.keep(made("E" * 21 + "A", now=NOON + 80_000), NOON + 80_000)
    assert invitations.find("A" * 22)
    invitations.keep(made("I" * 21 + "A", now=NOON + 87_100), NOON + 87_100)
    assert invitations.find("A" * 22) is None
    assert [each.name[0] for each in invitations.open(NOON + 80_001)] == ["E", "I"]


def test_what_was_revoked_is_not_finished_later(invitations: Invitations) -> None:
    def dies(_: object) -> None:
        raise OSError(5, "power failed")

    invitations.keep(made(), NOON)
    with pytest.raises(StorageError):
        invitations.join("A" * 22, ADA, NOON, dies)
    invitations.forget({PEOPLE[1]})
    assert invitations.find("A" * 22)
    invitations.forget({ADA})
    with pytest.raises(NotFound):
        invitations.join("A" * 22, ADA, NOON, lambda _: None)


def test_of_many_processes_one_joins(invitations: Invitations, tmp_path: Path) -> None:
    invitations.keep(made(), NOON)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pushtrain.core.errors import Conflict\n"
        "from pushtrain.plumbing.keys.invitations import Invitations\n"
        "sys.stdin.readline()\n"
        "try:\n"
        "    folder = Invitations(Path(sys.argv[1]))\n"
        "    folder.join('A' * 22, sys.argv[2], 1790000000.0, lambda _: print('in'))\n"
        "except Conflict:\n"
        "    print('late')\n"
    )
    children = [
        subprocess.Popen(
            (sys.executable, "-c", program, str(tmp_path / "invitations"), person),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for person in PEOPLE
    ]
    for child in children:
        assert child.stdin
        child.stdin.write("go\n")
        child.stdin.flush()
    told = [child.communicate(timeout=60)[0].strip() for child in children]
    assert sorted(told) == ["in", "late", "late"]


KILLED = """
import os, signal, sys
from pathlib import Path
from pushtrain.plumbing.disk import files
from pushtrain.plumbing.keys import invitations
from pushtrain.plumbing.keys.authorized import Authorized
from pushtrain.core.wire.signing import parse_public

left = int(sys.argv[3])

def dies(real):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return call

os.fsync = dies(os.fsync)
Path.replace = dies(Path.replace)
root = Path(sys.argv[1])
authorized = Authorized(root / "authorized_keys")
invitations.Invitations(root / "invitations").join(
    "A" * 22, sys.argv[2], 1790000000.0, lambda it: authorized.allow(parse_public(sys.argv[2]), it.terms)
)
"""


@pytest.mark.slow
def test_killed_at_every_step_it_is_finished_by_the_same_key_and_by_no_other(tmp_path: Path) -> None:
    from pushtrain.core.wire.signing import parse_public
    from pushtrain.plumbing.keys.authorized import Authorized

    for step in range(1, 40):
        root = tmp_path / str(step)
        root.mkdir()
        kept, authorized = Invitations(root / "invitations"), Authorized(root / "authorized_keys")
        kept.keep(made(), NOON)
        argv = (sys.executable, "-c", KILLED, str(root), ADA, str(step))
        code = subprocess.run(argv, check=False, timeout=60).returncode
        found = kept.find("A" * 22)
        assert found, "an invitation is whole, whenever the power fails"
        noted = found.joined_by
        assert noted in {"", ADA}
        assert {grant.public_key for grant in authorized.grants()} <= ({ADA} if noted else set())
        who = PEOPLE[1] if not noted else ADA
        if noted:
            with pytest.raises(PushtrainError):
                kept.join("A" * 22, PEOPLE[1], NOON, lambda _: pytest.fail("somebody else was let in"))

        def allow(it: Invitation, who: str = who, authorized: Authorized = authorized) -> None:
            authorized.allow(parse_public(who), it.terms)

        assert kept.join("A" * 22, who, NOON, allow).settled
        assert {grant.public_key for grant in authorized.grants()} == {who}
        if code == 0:
            assert step > 6, "it was killed at every fsync and every rename before"
            return
        assert code == -signal.SIGKILL
    pytest.fail("it never came through")


class Life(RuleBasedStateMachine):
    """Invitations live through any order of events, on a real disk, beside a model in memory."""

    names = Bundle("names")
    base = Path()

    def __init__(self) -> None:
        super().__init__()
        self.folder = self.base / f"{len(list(self.base.iterdir()))}"
        self.invitations = Invitations(self.folder)
        self.now = NOON
        self.ends: dict[str, float] = {}
        self.wrong: dict[str, int] = {}
        self.owner: dict[str, str] = {}
        self.authorized: list[tuple[str, str]] = []
        self.made = 0

    @rule(target=names, number=st.integers(0, 3), lifetime=st.sampled_from([10.0, 600.0]))
    def invite(self, number: int, lifetime: float) -> str:
        self.made += 1  # codes are drawn at random: none comes twice
        name = f"{self.made:03d}{number}" + "A" * 18
        self.invitations.keep(made(name, now=self.now, lifetime=lifetime), self.now)
        self.ends[name], self.wrong[name] = self.now + lifetime, 0
        return name

    @rule(seconds=st.sampled_from([1.0, 9.0, 100.0, 700.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(name=names)
    def doubt(self, name: str) -> None:
        was_open = self._open(name)
        self.invitations.wrong(name, self.now)
        self.wrong[name] += was_open

    @rule(name=names)
    def withdraw(self, name: str) -> None:
        self.invitations.withdraw(name, self.now)
        if name not in self.owner:
            self.ends.pop(name, None)

    @rule(name=names, person=st.sampled_from(PEOPLE), dies=st.booleans())
    def join(self, name: str, person: str, *, dies: bool) -> None:
        may = self.owner.get(name) == person or self._open(name)

        def authorize(_: Invitation) -> None:
            if dies:
                raise OSError(5, "power failed")
            self.authorized.append((name, person))

        try:
            self.invitations.join(name, person, self.now, authorize)
        except StorageError:
            assert dies
            assert may
            self.owner[name] = person
        except PushtrainError:
            assert not may
        else:
            assert may
            self.owner[name] = person

    def _open(self, name: str) -> bool:
        alive = name in self.ends and self.now < self.ends[name]
        return alive and name not in self.owner and self.wrong[name] < TRIES

    @invariant()
    def nobody_else_was_let_in(self) -> None:
        for name, person in self.authorized:
            assert self.owner[name] == person
        assert len({name for name, _ in self.authorized}) == len(self.authorized)
        for name in self.ends:
            found = self.invitations.find(name)
            if found is not None:
                assert (found.standing(self.now) is Standing.OPEN) is self._open(name)
                assert found.joined_by == self.owner.get(name, "")


@pytest.mark.slow
def test_whatever_happens_in_whatever_order_one_key_joins_by_one_invitation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Life, "base", tmp_path)
    case = Life.TestCase()
    type(case).settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
    case.runTest()


def test_one_that_is_read_while_it_is_written_is_whole(invitations: Invitations) -> None:
    invitations.keep(made(), NOON)
    seen: list[Invitation | None] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(invitations.find("A" * 22))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(TRIES):
        invitations.wrong("A" * 22, NOON)
    done.set()
    reader.join(10)
    assert seen
    assert None not in seen
