"""The signed lines of a live stream."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.errors import Unauthorized
from pushtrain.core.values.run import RunView
from pushtrain.core.wire.frames import BeatFrame, EndFrame, Frame, LogFrame, ViewFrame, seal, unseal
from pushtrain.testing import a_run

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VIEW = RunView(run=a_run())
FRAMES: list[Frame] = [
    LogFrame(attempt=1, offset=7, data=b"epoch 1\xff\n", next_offset=16, complete=False),
    ViewFrame(view=VIEW),
    BeatFrame(),
    EndFrame(view=VIEW),
]


def read(line: bytes, *, request: str = "r", number: int = 0) -> Frame:
    return unseal(line, key=KEY.public_key(), request=request, number=number)


GOLDEN_SIGNATURE = (
    "pushtrain=:Db4eBquFdITHa85jxU1BbXXbSMnsz88QRZgYesZpBRwq9UJpT4uS0uInUq3Eo326/4umXipaQYNvUmmVIUvnAw==:"
)
GOLDEN = (
    b'{"kind":"beat","signature":'
    b'"LsLf_cNGKC-zuAR3E4rPNQbpASTUe5LIXaPrkWDyHi4IFe9uxlwM1MAxX6dVcirnL0d59aIDPIIyiElp6g6WCA"}\n'
)


def test_the_format_of_a_line_is_frozen() -> None:
    assert seal(BeatFrame(), key=KEY, request="r", number=0) == GOLDEN


def test_the_protocols_page_shows_a_line() -> None:
    page = (Path(__file__).parents[3] / "docs/wire-protocol.md").read_text()
    line = seal(BeatFrame(), key=KEY, request=GOLDEN_SIGNATURE, number=0)
    assert f"```\n{line.decode()}```" in page


@pytest.mark.parametrize("frame", FRAMES)
def test_a_line_is_one_json_object_and_reads_back(frame: Frame) -> None:
    line = seal(frame, key=KEY, request="r", number=3)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert list(json.loads(line))[-1] == "signature"
    assert read(line, number=3) == frame
    assert read(line.rstrip(b"\n"), number=3) == frame


@given(data=st.binary(max_size=200), offset=st.integers(0, 2**53), number=st.integers(0, 2**40))
def test_whatever_bytes_a_log_holds_survive(data: bytes, offset: int, number: int) -> None:
    frame = LogFrame(attempt=1, offset=offset, data=data, next_offset=offset + len(data), complete=True)
    assert read(seal(frame, key=KEY, request="r", number=number), number=number) == frame


@given(place=st.integers(0, 10_000), flip=st.integers(1, 255), frame=st.sampled_from(FRAMES))
def test_any_flipped_byte_is_refused(place: int, flip: int, frame: Frame) -> None:
    line = bytearray(seal(frame, key=KEY, request="r", number=0).rstrip())
    line[place % len(line)] ^= flip
    with pytest.raises(Unauthorized, match="not signed by the executor"):
        read(bytes(line))


def test_a_line_of_another_place_stream_or_executor_is_refused() -> None:
    line = seal(BeatFrame(), key=KEY, request="r", number=1)
    for wrong in ({"number": 0}, {"number": 2}, {"request": "s", "number": 1}):
        with pytest.raises(Unauthorized):
            read(line, **wrong)
    with pytest.raises(Unauthorized):
        read(seal(BeatFrame(), key=OTHER, request="r", number=0))


@given(st.binary(max_size=300))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(Unauthorized):
        read(noise)


def test_a_base64_of_another_spelling_is_refused() -> None:
    line = seal(BeatFrame(), key=KEY, request="r", number=0).rstrip()
    last = line[-3:-2]
    with pytest.raises(Unauthorized):
        read(line[:-3] + bytes([last[0] + 1]) + b'"}')


def test_something_signed_that_is_no_frame_is_a_value_error() -> None:
    class Odd(BeatFrame):
        more: int = 1

    with pytest.raises(ValueError, match="more"):
        read(seal(Odd(), key=KEY, request="r", number=0))
