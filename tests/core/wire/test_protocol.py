"""Which version of the protocol an answer is of is read before anything else of it."""

import json

import pytest

from pushtrain.core.wire.protocol import PROTOCOL, misfit


def test_the_same_version_fits_whatever_else_is_said() -> None:
    assert misfit(json.dumps({"protocol": PROTOCOL, "new": 1}).encode()) is None


@pytest.mark.parametrize(
    ("said", "late"),
    [
        ({"protocol": PROTOCOL + 1, "new": 1}, "this machine"),
        ({"version": "0.0.1"}, "that machine"),
        ({"protocol": True}, "that machine"),
        ({"protocol": "1"}, "that machine"),
    ],
)
def test_of_two_versions_the_older_side_is_to_be_upgraded(said: dict[str, object], late: str) -> None:
    other = misfit(json.dumps(said).encode())
    assert other is not None
    assert f"on {late}" in other[1]


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_left_to_whoever_parses_it(body: bytes) -> None:
    assert misfit(body) is None
