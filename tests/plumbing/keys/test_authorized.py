"""Identities and key files: real files, real processes."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.errors import ConfigError, StorageError, UsageError
from pushtrain.core.wire.grants import Word
from pushtrain.core.wire.signing import fingerprint, public_text
from pushtrain.core.wire.succession import succession
from pushtrain.plumbing.keys.authorized import Authorized, Grant, Scope, Trusted, load_or_create
from pushtrain.plumbing.keys.identity import Identity
from pushtrain.testing import NOON, Clock

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = PRIVATE.public_key()
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64))).public_key()
TEXT, ID = public_text(KEY), fingerprint(KEY)
OTHER_TEXT, OTHER_ID = public_text(OTHER), fingerprint(OTHER)


# --- the identity -----------------------------------------------------------------------------------------


def test_an_identity_is_made_once_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    first = load_or_create(path).private_bytes_raw()
    assert load_or_create(path).private_bytes_raw() == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["identity.key"]


def test_processes_that_come_at_once_get_one_identity(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pushtrain.plumbing.keys.authorized import load_or_create\n"
        "sys.stdout.write('ready\\n'); sys.stdout.flush(); sys.stdin.readline()\n"
        "print(load_or_create(Path(sys.argv[1])).private_bytes_raw().hex())\n"
    )
    argv = (sys.executable, "-c", program, str(tmp_path / "identity.key"))
    children = [
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for child in children:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin
        child.stdin.write("go\n")
        child.stdin.flush()
    answers = {child.communicate(timeout=30)[0] for child in children}
    assert answers == {load_or_create(tmp_path / "identity.key").private_bytes_raw().hex() + "\n"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o700 | 0o077])
def test_a_private_key_that_others_can_read_is_refused_with_the_mend(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.key"
    load_or_create(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="open to other users") as caught:
        load_or_create(path)
    assert caught.value.mend == f"`chmod 600 {path}`"


def test_a_file_that_holds_no_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    other = X25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    locked = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    for content in (b"", b"nonsense", other, locked):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(ConfigError, match="holds no Ed25519 private key"):
            load_or_create(path)
        assert path.read_bytes() == content


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be used: No such file or directory"):
        load_or_create(tmp_path / "none" / "identity.key")


def test_a_created_key_leaves_nothing_behind_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        load_or_create(tmp_path / "identity.key")
    assert list(tmp_path.iterdir()) == []


# --- who may command --------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "authorized_keys"


def test_nobody_is_authorised_before_there_is_a_file(path: Path) -> None:
    assert Authorized(path).lookup(ID) is None
    assert Authorized(path).grants() == []


def test_the_executors_own_key_may_do_everything(path: Path) -> None:
    grant = Authorized(path, owner=lambda: Identity(PRIVATE)).lookup(ID)
    assert grant is not None
    assert all(grant.allows(scope, "any.host/any/thing") for scope in Scope)


def test_a_key_is_authorised_at_once_in_a_running_executor(path: Path) -> None:
    running = Authorized(path)
    assert running.lookup(ID) is None
    Authorized(path).add(KEY, scopes=[Scope.READ], repositories=["github.com/octo/*"], name="ada")
    assert running.lookup(ID) == Grant(
        public_key=TEXT, scopes=(Scope.READ,), repositories=("github.com/octo/*",), name="ada"
    )
    path.unlink()
    assert running.lookup(ID) is None


def test_adding_keeps_comments_and_other_lines_and_replaces_ones_own(path: Path) -> None:
    path.write_text(f"# the group\n\n{OTHER_TEXT} name=bob\n{TEXT}\t name=old\n# the end\n")
    path.chmod(0o600)
    Authorized(path).add(KEY, name="new")
    assert path.read_text() == f"# the group\n\n{OTHER_TEXT} name=bob\n# the end\n{TEXT} name=new\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_key_without_options_may_do_everything_everywhere(path: Path) -> None:
    grant = Authorized(path).add(KEY)
    assert path.read_text() == f"{TEXT}\n"
    assert grant.allows(Scope.SEND, "github.com/octo/hello")
    assert Authorized(path).lookup(ID) == grant


@pytest.mark.parametrize(
    ("scope", "repository", "allowed"),
    [
        (Scope.SEND, "github.com/octo/hello", True),
        (Scope.SEND, "github.com/octo/deep/er", False),
        (Scope.SEND, "github.com/evil/octo/hello", False),
        (Scope.SEND, "gitlab.com/lab/one", True),
        (Scope.SEND, "gitlab.com/lab/one2", False),
        (Scope.SEND, "", True),
        (Scope.READ, "github.com/octo/hello", True),
        (Scope.CANCEL, "github.com/octo/hello", False),
    ],
)
def test_a_grant_holds_for_its_scopes_and_repositories_only(
    scope: Scope, repository: str, allowed: bool
) -> None:
    grant = Grant(
        public_key=TEXT,
        scopes=(Scope.SEND, Scope.READ),
        repositories=("github.com/octo/*", "gitlab.com/lab/one"),
    )
    assert grant.allows(scope, repository) is allowed


@pytest.mark.parametrize("name", ["owner", "SHA256:Vkdap1RjR0wChd9dvyvKtz2mUTWIOem3dIGy6rEHcIw", "SHA256:x"])
def test_no_key_is_called_so_that_rules_take_it_for_another(tmp_path: Path, name: str) -> None:
    """`senders = ["owner"]` means this executor's own key, and a fingerprint the key that has it."""
    authorized = Authorized(tmp_path / "authorized_keys")
    with pytest.raises(UsageError, match="would stand for"):
        authorized.add(KEY, name=name)
    (tmp_path / "authorized_keys").write_text(f"{TEXT} name={name}\n")
    assert authorized.grants() == []
    assert authorized.add(KEY, name="owner-of-lab-3").name == "owner-of-lab-3"


def test_an_expired_key_is_unknown_but_still_listed(path: Path) -> None:
    clock = Clock(NOON)
    authorized = Authorized(path, clock=clock)
    grant = authorized.add(KEY, expires="2026-09-22")
    assert grant.expires is not None
    clock.advance(grant.expires - NOON - 1)
    assert authorized.lookup(ID) == grant
    clock.advance(1)
    assert authorized.lookup(ID) is None
    assert authorized.grants() == [grant]


@pytest.mark.parametrize("text", ["2027-01-31T12:00+02:00", "2027-01-31T10:00:00Z", "2027-01-31T10:00"])
def test_a_time_without_a_zone_is_utc(path: Path, text: str) -> None:
    assert Authorized(path).add(KEY, expires=text).expires == 1801389600


@pytest.mark.parametrize(
    "line",
    [
        f"{TEXT} scope=read",
        f"{TEXT} scopes=read,everything",
        f"{TEXT} scopes=",
        f"{TEXT} scopes",
        f"{TEXT} scopes=read scopes=send",
        f"{TEXT} expires=tomorrow",
        f"{TEXT} url=http://x",
        f"{TEXT}x",
        f"{TEXT[:-1]}",
        "ssh-ed25519 AAAA",
        "# comment",
    ],
)
def test_a_line_that_is_not_understood_grants_nothing_and_others_still_do(
    path: Path, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(f"{line}\n{OTHER_TEXT}\n")
    authorized = Authorized(path)
    assert authorized.lookup(ID) is None
    assert authorized.lookup(OTHER_ID)
    assert ("line 1 grants nothing" in caplog.text) is not line.startswith("#")


@given(st.binary(max_size=200))
def test_no_bytes_in_a_key_file_break_it(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    path = tmp_path_factory.mktemp("keys") / "authorized_keys"
    path.write_bytes(noise)
    logging.disable()
    try:
        assert Authorized(path).grants() == []
    finally:
        logging.disable(logging.NOTSET)


def test_a_file_that_others_may_write_authorises_nobody(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authorized = Authorized(path)
    authorized.add(KEY)
    assert authorized.lookup(ID)
    path.chmod(0o622)
    assert authorized.lookup(ID) is None
    assert f"chmod 600 {path}" in caplog.text
    path.chmod(0o644)
    assert authorized.lookup(ID)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "two words"},
        {"name": "a#b"},
        {"name": "a\nb"},
        {"name": "x" * 201},
        {"repositories": ["a b"]},
        {"repositories": ["a=b"]},
        {"repositories": [""], "name": "a,,b"},
        {"expires": "someday"},
    ],
)
def test_what_would_read_back_as_something_else_is_not_written(path: Path, options: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        Authorized(path).add(KEY, **options)  # type: ignore[arg-type]
    assert not path.exists()


def test_two_who_add_at_once_lose_no_line(path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey\n"
        "from pushtrain.plumbing.keys.authorized import Authorized\n"
        "for _ in range(20):\n"
        "    Authorized(Path(sys.argv[1])).add(Ed25519PrivateKey.generate().public_key())\n"
    )
    children = [subprocess.Popen((sys.executable, "-c", program, str(path))) for _ in range(3)]
    assert [child.wait(timeout=60) for child in children] == [0, 0, 0]
    assert len(Authorized(path).grants()) == 60


def test_a_key_file_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="The key file"):
        Authorized(tmp_path / "none" / "authorized_keys").add(KEY)


def test_a_key_file_that_is_no_text_is_left_alone(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(StorageError, match="cannot be used"):
        Authorized(path).add(KEY)
    assert path.read_bytes() == b"\xff\xfe"


def test_looking_up_a_key_reads_the_file_only_when_it_changed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authorized = Authorized(path)
    authorized.add(KEY)
    assert authorized.lookup(ID)
    monkeypatch.setattr(Path, "read_text", lambda *_: pytest.fail("read again"))
    assert authorized.lookup(ID)


def test_who_sent_is_called_by_name_also_when_the_key_counts_no_more(path: Path) -> None:
    authorized = Authorized(path)
    authorized.add(KEY, name="ada")
    authorized.add(OTHER)
    assert (authorized.called(ID), authorized.called(OTHER_ID)) == ("ada", "")
    authorized.revoke("ada")
    assert (authorized.lookup(ID), authorized.called(ID)) == (None, "ada")


def test_a_key_keeps_its_name_when_its_rights_or_its_address_change(path: Path, tmp_path: Path) -> None:
    """Rules name senders by it."""
    authorized, trusted = Authorized(path), Trusted(tmp_path / "trusted_keys")
    authorized.add(KEY, name="ada")
    assert authorized.add(KEY, scopes=[Scope.READ]).name == "ada"
    assert authorized.add(KEY, name="eva").name == "eva"
    trusted.add(KEY, name="lab-3")
    assert trusted.add(KEY, url="https://lab.example").name == "lab-3"


def test_a_rotated_key_that_is_authorised_again_has_taken_the_same_ones_place(path: Path) -> None:
    """What the old key had sent was nobody's any more, and a thief of it could take its place."""
    old, new, thief = (Ed25519PrivateKey.generate() for _ in range(3))
    old_id, new_id, thief_id = (fingerprint(each.public_key()) for each in (old, new, thief))
    clock = Clock()
    authorized = Authorized(path, clock=clock)
    authorized.add(old.public_key(), name="ada")
    statement, theft = (
        str(succession(old, each.public_key(), at=int(NOON), overlap=86_400.0)) for each in (new, thief)
    )
    assert authorized.succeed(new_id, [statement])
    grant = authorized.add(new.public_key(), scopes=[Scope.SEND])
    assert (grant.was, grant.name, authorized.lookup(new_id)) == ((old_id,), "ada", grant)
    assert authorized.heir(thief_id, [theft]) is None
    clock.advance(2 * 86_400.0)
    assert authorized.lookup(old_id) is None
    assert authorized.spokesman(old_id) == grant, "what waits of it may start"
    authorized.revoke("ada")
    assert authorized.spokesman(old_id) is None
    again = authorized.add(new.public_key())
    assert again.was == (old_id,)
    assert authorized.word(old_id) is Word.REVOKED, "the old key itself is not let in again"


def test_an_executor_with_a_new_key_that_is_trusted_again_has_taken_the_same_ones_place(
    tmp_path: Path,
) -> None:
    old, new = (Ed25519PrivateKey.generate() for _ in range(2))
    trusted = Trusted(tmp_path / "trusted_keys", clock=Clock())
    trusted.add(old.public_key(), name="lab-3")
    statement = succession(old, new.public_key(), at=int(NOON), overlap=86_400.0)
    assert trusted.succeed(statement.old_id, statement, [statement.old_id], name="", url="")
    again = trusted.add(new.public_key(), url="https://lab.example")
    assert (again.was, again.name) == ((statement.old_id,), "lab-3")
    trusted.revoke(again)
    assert trusted.revoked() == {statement.old_id, statement.new_id}, "none of them is believed"


# --- whom to trust ----------------------------------------------------------------------------------------


def test_an_executor_is_trusted_with_its_address(tmp_path: Path) -> None:
    trusted = Trusted(tmp_path / "trusted_keys")
    assert trusted.entries() == []
    entry = trusted.add(KEY, url="https://lab.example:8421", name="lab-3")
    trusted.add(OTHER)
    assert [each.public_key for each in trusted.entries()] == [TEXT, OTHER_TEXT]
    assert trusted.entries()[0] == entry
    assert (tmp_path / "trusted_keys").read_text() == (
        f"{TEXT} url=https://lab.example:8421 name=lab-3\n{OTHER_TEXT}\n"
    )


def test_a_line_for_the_other_file_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "trusted_keys"
    path.write_text(f"{TEXT} scopes=send\n")
    assert Trusted(path).entries() == []


def test_patterns_of_repositories_are_those_of_the_owners_rules(tmp_path: Path) -> None:
    authorized = Authorized(tmp_path / "authorized_keys")
    grant = authorized.add(KEY, repositories=("github.com/octo/*", "!github.com/octo/secret"))
    allowed = {
        name: grant.allows(Scope.SEND, f"github.com/octo/{name}") for name in ("hello", "a/b", "secret")
    }
    assert allowed == {"hello": True, "a/b": False, "secret": False}
    with pytest.raises(UsageError, match="is no pattern"):
        authorized.add(KEY, repositories=("github.com/[",))
    (tmp_path / "authorized_keys").write_text(f"{TEXT} repo=github.com/[\n")
    assert authorized.lookup(ID) is None
