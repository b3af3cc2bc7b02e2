"""What leaves a disk that is too full, and in which order."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.runs.lean import Disk, Kind, Piece, beyond_help, budget_of, choose

PIECES = st.lists(
    st.builds(
        Piece,
        kind=st.sampled_from(Kind),
        name=st.text("abcdef", min_size=1, max_size=4),
        size=st.integers(0, 50),
        used=st.integers(0, 9).map(float),
        stays=st.sampled_from(("", "", "", "a run uses it")),
        spent=st.sampled_from((False, False, False, True)),
    ),
    max_size=30,
    unique_by=lambda piece: (piece.kind, piece.name),
)


@given(PIECES, st.integers(0, 800))
def test_what_must_stay_never_goes(pieces: list[Piece], excess: int) -> None:
    assert not any(piece.stays for piece in choose(pieces, excess))


@given(PIECES, st.integers(0, 800))
def test_enough_goes_or_everything_that_may(pieces: list[Piece], excess: int) -> None:
    going = choose(pieces, excess)
    left = [piece for piece in pieces if piece not in going and not piece.stays and piece.size]
    assert sum(piece.size for piece in going) >= excess or not left


@given(PIECES, st.integers(0, 800))
def test_no_more_goes_than_is_needed(pieces: list[Piece], excess: int) -> None:
    going = choose(pieces, excess)
    if going and not going[-1].spent:
        assert sum(piece.size for piece in going[:-1]) < excess
        assert all(piece.size for piece in going if not piece.spent)


@given(PIECES, st.integers(0, 800))
def test_nothing_goes_that_was_used_later_than_something_that_stays(pieces: list[Piece], excess: int) -> None:
    going = [piece for piece in choose(pieces, excess) if not piece.spent]
    left = [piece for piece in pieces if piece not in going and not piece.stays and piece.size]
    left = [piece for piece in left if not piece.spent]
    assert max((piece.used for piece in going), default=0) <= min((p.used for p in left), default=9)


@given(PIECES, st.integers(0, 800), st.randoms())
def test_the_order_in_which_the_disk_was_looked_at_changes_nothing(
    pieces: list[Piece], excess: int, random: Random
) -> None:
    other = list(pieces)
    random.shuffle(other)
    assert choose(other, excess) == choose(pieces, excess)


@given(PIECES)
def test_what_is_spent_goes_without_any_need_and_nothing_else_does(pieces: list[Piece]) -> None:
    spent = {(piece.kind, piece.name) for piece in pieces if piece.spent and not piece.stays}
    assert {(piece.kind, piece.name) for piece in choose(pieces, 0)} == spent


@given(PIECES, st.integers(0, 900), st.integers(0, 900))
def test_what_is_beyond_help_is_what_is_still_too_much_when_all_has_gone(
    pieces: list[Piece], budget: int, floor: int
) -> None:
    total = sum(piece.size for piece in pieces)
    disk = Disk(total=total, free=100, budget=budget, floor=floor)
    freed = sum(piece.size for piece in choose(pieces, 10**9))
    after = Disk(total=total - freed, free=100 + freed, budget=budget, floor=floor)
    assert beyond_help(pieces, disk) == after.excess


def test_of_two_used_at_the_same_time_the_cheaper_one_to_have_again_goes() -> None:
    pieces = [Piece(kind, "a", 10, 1.0) for kind in (Kind.DATA, Kind.MIRROR, Kind.TREE)]
    assert [piece.kind for piece in choose(pieces, 15)] == [Kind.TREE, Kind.MIRROR]


def test_a_budget_that_nobody_set_is_half_of_the_file_system() -> None:
    assert budget_of(0, 1000) == 500
    assert budget_of(300, 1000) == 300
