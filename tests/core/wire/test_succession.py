"""Statements of old keys about new ones: which hold, where they lead, and what nobody can make of them."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.wire.signing import fingerprint, public_text
from pushtrain.core.wire.succession import (
    LONGEST_OVERLAP,
    MOST,
    Succession,
    chain,
    header,
    known_from,
    of_header,
    read,
    succession,
)
from pushtrain.testing import NOON

KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(1, 13)]
TEXTS = [public_text(key.public_key()) for key in KEYS]
IDS = [fingerprint(key.public_key()) for key in KEYS]


def said(old: int, new: int, *, overlap: float = 600) -> Succession:
    return succession(KEYS[old], KEYS[new].public_key(), at=NOON, overlap=overlap)


def test_a_statement_reads_back_and_holds() -> None:
    one = said(0, 1)
    assert read(str(one)) == one
    assert one.holds
    assert (one.old_id, one.new_id, one.until) == (IDS[0], IDS[1], int(NOON) + 600)
    assert of_header(header([one, said(1, 2)])) == [str(one), str(said(1, 2))]
    assert of_header("") == []


@given(st.integers(0, 400), st.integers(1, 127))
def test_a_statement_that_somebody_changed_is_none(place: int, other: int) -> None:
    text = str(said(0, 1))
    place %= len(text)
    changed = text[:place] + chr(ord(text[place]) ^ other) + text[place + 1 :]
    found = read(changed)
    assert found is None or not found.holds or found == said(0, 1)
    assert chain([changed], TEXTS[1]) == ()


@given(st.text(max_size=400))
def test_no_text_is_a_statement(text: str) -> None:
    found = read(text)
    assert found is None or not found.holds
    assert chain(of_header(text), TEXTS[0]) == ()


def test_nobody_speaks_for_another_key() -> None:
    forged = said(3, 1)
    in_his_name = Succession(TEXTS[0], forged.new, forged.at, forged.until, forged.signature)
    assert not in_his_name.holds
    assert not said(1, 1).holds
    assert not said(0, 1, overlap=LONGEST_OVERLAP + 1).holds
    assert not said(0, 1, overlap=0).holds


def test_statements_lead_from_key_to_key() -> None:
    all_of_them = [str(said(number, number + 1)) for number in range(5)]
    found = chain(all_of_them, TEXTS[5])
    assert [each.old_id for each in found] == IDS[:5]
    assert [each.old_id for each in known_from(found, lambda name: name == IDS[2])] == IDS[2:5]
    assert [each.old_id for each in known_from(found, lambda name: name in {IDS[0], IDS[3]})] == IDS[3:5]
    assert known_from(found, lambda name: name == IDS[5]) == ()
    assert chain(all_of_them, TEXTS[4]) == ()


@pytest.mark.parametrize(
    ("steps", "length"),
    [
        ([(0, 1), (2, 3)], 1),
        ([(0, 1), (1, 2), (0, 3)], 1),
        ([(1, 2), (0, 1), (2, 3)], 1),
        ([], 0),
        ([(0, 1)] * (MOST + 1), 0),
    ],
)
def test_a_gap_in_between_is_not_jumped(steps: list[tuple[int, int]], length: int) -> None:
    texts = [str(said(*step)) for step in steps]
    assert len(chain(texts, TEXTS[steps[-1][1]] if steps else TEXTS[0])) == length


def test_a_statement_that_does_not_hold_breaks_the_line() -> None:
    bad = Succession(TEXTS[1], TEXTS[2], 1, 2, "A" * 86)
    assert [each.old_id for each in chain([str(said(0, 1)), str(bad), str(said(2, 3))], TEXTS[3])] == [IDS[2]]
