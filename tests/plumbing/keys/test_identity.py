"""The identity in its file: a rotation is one step, whenever the power fails, and leaves nothing behind."""

import base64
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pushtrain.core.errors import ConfigError
from pushtrain.core.wire.signing import fingerprint
from pushtrain.core.wire.succession import MOST
from pushtrain.plumbing.keys.identity import Ring, forget_former, load, load_or_create, rotate
from pushtrain.plumbing.programs import process
from pushtrain.testing import NOON, Clock

DAY = 86_400.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "identity.key"


def test_a_rotation_keeps_the_old_key_for_a_while_and_its_word_for_good(path: Path) -> None:
    clock = Clock()
    old = load_or_create(path)
    after = rotate(path, overlap=DAY, clock=clock)
    here = load(path)
    assert here.id == after.id != fingerprint(old.public_key())
    assert here.was == (fingerprint(old.public_key()),)
    assert list(here.counting(NOON + DAY - 1)) == [here.id, *here.was]
    assert list(here.counting(NOON + DAY)) == [here.id]
    assert path.stat().st_mode & 0o777 == 0o600
    assert old.private_bytes_raw() == here.former[0].private_bytes_raw()


def test_a_former_private_key_is_deleted_after_the_overlap(path: Path) -> None:
    clock = Clock()
    load(path)
    first = path.read_bytes()
    rotate(path, overlap=DAY, clock=clock)
    forget_former(path, clock=clock)
    assert first in path.read_bytes()
    clock.advance(DAY)
    forget_former(path, clock=clock)
    assert first not in path.read_bytes()
    here = load(path)
    assert (len(here.former), len(here.chain)) == (0, 1)
    before = path.read_bytes()
    forget_former(path, clock=clock)
    assert path.read_bytes() == before


def test_many_rotations_stay_small(path: Path) -> None:
    ids = [load(path).id, *(rotate(path, overlap=DAY * (n + 1)).id for n in range(MOST + 3))]
    here = load(path)
    assert here.was == tuple(ids[-MOST - 1 : -1])
    assert len(path.read_bytes()) < 8192


def test_a_file_that_others_can_read_is_not_rotated(path: Path) -> None:
    load(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="open to other users"):
        rotate(path, overlap=DAY)


def test_another_program_reads_the_current_key_first(path: Path) -> None:
    load(path)
    after = rotate(path, overlap=DAY)
    found = serialization.load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(found, Ed25519PrivateKey)
    assert found.private_bytes_raw() == after.key.private_bytes_raw()


def test_a_damaged_file_never_ends_a_running_server(path: Path) -> None:
    """Each request asks for the identity; whatever stands in its file, there is one."""
    first = load(path)
    ring, text = Ring(path), path.read_bytes()
    start = text.index(b"\n") + 1
    body = bytearray(base64.b64decode(text[start : text.index(b"-----END")]))
    for number in range(len(body)):
        for value in (0, 0xFF, body[number] ^ 1):
            changed = bytes(body[:number]) + bytes((value,)) + bytes(body[number + 1 :])
            path.write_bytes(
                text[:start] + base64.b64encode(changed) + b"\n" + text[text.index(b"-----END") :]
            )
            with contextlib.suppress(ConfigError):
                load(path)
            assert ring().id.startswith("SHA256:")
    path.write_bytes(b"\xff" * 1000)
    with pytest.raises(ConfigError):
        load(path)
    path.write_bytes(text)
    os.utime(path, ns=(1, 1))
    assert ring().id == first.id


def test_a_running_server_sees_the_new_key(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ring = Ring(path)
    before = ring().id
    after = rotate(path, overlap=DAY)
    assert ring().id == after.id != before
    text = path.read_bytes()
    path.unlink()
    path.write_text("nonsense")
    path.chmod(0o600)
    assert ring().id == after.id
    assert "stays as it was" in caplog.text
    path.unlink()
    path.write_bytes(text)
    path.chmod(0o600)
    assert ring().id == after.id


KILLED = """
import os, signal, sys
from pathlib import Path
from pushtrain.plumbing.keys.identity import rotate

left = int(sys.argv[2])

def dies(real):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return call

os.fsync, os.open, Path.replace = dies(os.fsync), dies(os.open), dies(Path.replace)
rotate(Path(sys.argv[1]), overlap=86400.0)
"""


@pytest.mark.slow
def test_killed_at_every_step_it_leaves_one_whole_identity(tmp_path: Path) -> None:
    for step in range(1, 30):
        path = tmp_path / f"{step}.key"
        old = load(path).id
        argv = (sys.executable, "-c", KILLED, str(path), str(step))
        code = subprocess.run(argv, check=False, timeout=60).returncode
        here = load(path)
        assert old in {here.id, *here.was}, "whoever knew the old key is led to the one that counts"
        assert list(here.counting(0))[: len(here.former) + 1][0] == here.id
        again = rotate(path, overlap=DAY)
        assert old in again.was
        if code == 0:
            assert here.id != old
            assert step > 5
            return
        assert code == -signal.SIGKILL
    pytest.fail("it never came through")


# --- CI ---------------------------------------------------------------------------------------------------


def test_a_key_in_the_environment_wins_and_nothing_is_written(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.key"
    load(elsewhere)
    rotate(elsewhere, overlap=DAY)
    environ = {"PUSHTRAIN_KEY": elsewhere.read_text()}
    path = tmp_path / "none" / "identity.key"
    here = load(path, environ)
    assert here.id == load(elsewhere).id
    assert here.chain == load(elsewhere).chain
    assert not path.parent.exists()
    with pytest.raises(ConfigError, match="cannot be written"):
        rotate(path, overlap=DAY, environ=environ)


@pytest.mark.parametrize("text", ["nonsense", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"])
def test_what_is_no_key_in_the_environment_is_an_error_that_does_not_repeat_it(
    tmp_path: Path, text: str
) -> None:
    with pytest.raises(ConfigError, match="`PUSHTRAIN_KEY` holds no Ed25519 private key") as caught:
        load(tmp_path / "identity.key", {"PUSHTRAIN_KEY": text})
    assert text not in str(caught.value)


def test_no_program_that_we_start_sees_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHTRAIN_KEY", "a secret")
    monkeypatch.setenv("PUSHTRAIN_WEBHOOK_SECRET", "a secret")
    for env in (None, dict(os.environ)):
        done = process.run(("env",), env=env)
        assert b"a secret" not in done.out
