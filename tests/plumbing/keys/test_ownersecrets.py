"""What an owner keeps for jobs: in private files, or in the keyring."""

import sys
from pathlib import Path
from types import ModuleType

import keyring
import pytest
from keyring.backend import KeyringBackend

from pushtrain.core.errors import SecretError
from pushtrain.core.settings import OwnerSecret
from pushtrain.plumbing.keys.ownersecrets import read, tidied

TOKEN = "hf_canary_0123456789"


def kept(**changes: object) -> OwnerSecret:
    return OwnerSecret.model_validate({"name": "HF_TOKEN", "repositories": ("*/**",), **changes})


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (f"{TOKEN}\n", TOKEN),
        (f"{TOKEN}\r\n", TOKEN),
        (TOKEN, TOKEN),
        ("-----BEGIN\nabcdef\n", "-----BEGIN\nabcdef\n"),
        ("", ""),
    ],
)
def test_one_line_loses_its_line_break_and_several_keep_theirs(text: str, meant: str) -> None:
    assert tidied(text) == meant


def test_a_file_that_only_its_user_reads_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    assert read(kept(file=str(path))) == TOKEN
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read(kept(file="~/token")) == TOKEN
    assert TOKEN not in repr(kept(file="~/token"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_can_read_is_refused_with_the_mend(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(mode)
    with pytest.raises(SecretError, match=f"chmod 600 {path}") as raised:
        read(kept(file=str(path)))
    assert TOKEN not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "told"), [(b"short\n", "fewer than 8"), (b"\xff\xfe" * 10, "not UTF-8"), (b"a\0b" * 9, "NUL")]
)
def test_what_cannot_be_a_secret_is_refused_without_repeating_it(
    tmp_path: Path, content: bytes, told: str
) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(SecretError, match=told) as raised:
        read(kept(file=str(path)))
    assert "short" not in str(raised.value)


def test_a_file_that_is_not_there_or_nowhere_is_told(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="No such file"):
        read(kept(file=str(tmp_path / "none")))
    with pytest.raises(SecretError, match="whole path"):
        read(kept(file="token"))


class Memory(KeyringBackend):
    priority = 1.0

    def __init__(self, found: dict[tuple[str, str], str], *, locked: bool = False) -> None:
        self.found, self.locked = found, locked

    def get_password(self, service: str, username: str) -> str | None:
        if self.locked:
            raise keyring.errors.KeyringLocked
        return self.found.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        raise NotImplementedError

    def delete_password(self, service: str, username: str) -> None:
        raise NotImplementedError


def test_the_keyring_is_asked_for_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keyring.get_keyring()
    try:
        keyring.set_keyring(Memory({("pushtrain", "HF_TOKEN"): TOKEN}))
        assert read(kept(keyring="pushtrain")) == TOKEN
        with pytest.raises(SecretError, match="keyring set other HF_TOKEN"):
            read(kept(keyring="other"))
        keyring.set_keyring(Memory({}, locked=True))
        with pytest.raises(SecretError, match="locked"):
            read(kept(keyring="pushtrain"))
    finally:
        keyring.set_keyring(before)
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(SecretError, match="pip install keyring"):
        read(kept(keyring="pushtrain"))
    assert isinstance(keyring, ModuleType)
