"""What is sealed opens with one key, for one purpose, as RFC 9180 says."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.errors import ConfigError, UsageError
from pushtrain.core.wire.signing import public_text
from pushtrain.plumbing.keys.sealing import (
    NotOurs,
    open_secret,
    parse_sealing,
    seal,
    seal_secret,
    sealing_key,
    sealing_text,
    unseal,
)

KEY = X25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
OTHER = X25519PrivateKey.from_private_bytes(bytes(range(2, 34)))
TO = KEY.public_key()


@given(st.binary(max_size=300), st.binary(max_size=100))
def test_a_value_opens_with_the_key_and_the_purpose_it_was_sealed_for(value: bytes, bound: bytes) -> None:
    sealed = seal(value, TO, bound=bound)
    assert unseal(sealed, KEY, bound=bound) == value
    assert len(value) < 8 or value not in sealed
    assert seal(value, TO, bound=bound) != sealed


@given(st.binary(min_size=1, max_size=60), st.data())
def test_with_any_byte_changed_it_does_not_open(value: bytes, data: st.DataObject) -> None:
    sealed = bytearray(seal(value, TO, bound=b"for main"))
    # The top bit of an X25519 public key is not used (RFC 7748), but HPKE binds to the key as it was sent.
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(NotOurs):
        unseal(bytes(sealed), KEY, bound=b"for main")


def test_it_opens_neither_for_another_purpose_nor_with_another_key() -> None:
    sealed = seal(b"hunter22", TO, bound=b"for main")
    for key, bound in ((KEY, b"for dev"), (OTHER, b"for main")):
        with pytest.raises(NotOurs):
            unseal(sealed, key, bound=bound)
    for broken in (b"", sealed[:31], sealed[:40], sealed + b"\0"):
        with pytest.raises(NotOurs):
            unseal(broken, KEY, bound=b"for main")


def test_its_length_tells_no_more_than_a_multiple_of_64() -> None:
    sizes = {len(seal(b"x" * size, TO, bound=b"")) for size in range(8, 63)}
    assert sizes == {32 + 64 + 16}


def test_another_implementation_of_rfc_9180_seals_what_we_open() -> None:
    sealed = rfc_9180_seal(TO, b"from elsewhere\x80\0\0", bound=b"purpose", ephemeral=OTHER)
    assert unseal(sealed, KEY, bound=b"purpose") == b"from elsewhere"
    with pytest.raises(NotOurs, match="padded"):
        unseal(rfc_9180_seal(TO, b"bare", bound=b"p", ephemeral=OTHER), KEY, bound=b"p")
    with pytest.raises(NotOurs, match="padded"):
        unseal(rfc_9180_seal(TO, b"a\x80b", bound=b"p", ephemeral=OTHER), KEY, bound=b"p")


def rfc_9180_seal(to: X25519PublicKey, value: bytes, *, bound: bytes, ephemeral: X25519PrivateKey) -> bytes:
    """SealBase of RFC 9180 for kem 0x0020, kdf 0x0001, aead 0x0003, from its text alone."""
    kem, suite = b"KEM" + b"\x00\x20", b"HPKE" + b"\x00\x20\x00\x01\x00\x03"

    def extract(salt: bytes, which: bytes, label: bytes, material: bytes) -> bytes:
        mac = HMAC(salt or bytes(32), hashes.SHA256())
        mac.update(b"HPKE-v1" + which + label + material)
        return mac.finalize()

    def expand(secret: bytes, which: bytes, label: bytes, info: bytes, length: int) -> bytes:
        labelled = length.to_bytes(2, "big") + b"HPKE-v1" + which + label + info
        return HKDFExpand(hashes.SHA256(), length, labelled).derive(secret)

    sent = ephemeral.public_key().public_bytes_raw()
    prk = extract(b"", kem, b"eae_prk", ephemeral.exchange(to))
    shared = expand(prk, kem, b"shared_secret", sent + to.public_bytes_raw(), 32)
    context = b"\x00" + extract(b"", suite, b"psk_id_hash", b"") + extract(b"", suite, b"info_hash", bound)
    secret = extract(shared, suite, b"secret", b"")
    key, nonce = (
        expand(secret, suite, label, context, size) for label, size in ((b"key", 32), (b"base_nonce", 12))
    )
    return sent + ChaCha20Poly1305(key).encrypt(nonce, value, b"")


def test_the_sealing_key_is_made_once_and_is_its_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "sealing.key"
    made = sealing_key(path)
    assert sealing_key(path).private_bytes_raw() == made.private_bytes_raw()
    assert path.stat().st_mode & 0o777 == 0o600
    assert parse_sealing(sealing_text(made.public_key())) == made.public_key()
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        sealing_key(path)
    path.chmod(0o600)
    path.write_text("nonsense")
    with pytest.raises(ConfigError, match=r"X25519.*set anew"):
        sealing_key(path)
    with pytest.raises(UsageError, match="sealing key"):
        parse_sealing("x25519:short")


def test_a_secret_that_is_bound_to_something_else_does_not_open() -> None:
    sealer = Ed25519PrivateKey.generate()
    entry = seal_secret(
        "KEY",
        "hunter22",
        to=TO,
        key=sealer,
        repository="github.com/a/b",
        job="train",
        branch="main",
        sealed_at=1,
    )
    assert open_secret(entry, KEY) == "hunter22"
    for change in (
        {"branch": "**"},
        {"job": "*"},
        {"name": "OTHER"},
        {"repository": "github.com/e/e"},
        {"expires": 2},
        {"sealed_at": 2},
        {"sealer": public_text(Ed25519PrivateKey.generate().public_key())},
    ):
        with pytest.raises(NotOurs):
            open_secret(entry.model_copy(update=change), KEY)
