"""What is free of each card, told over the wire and heard again, and what a run's part of a card is."""

from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.owner.lending import OwnerRules
from pushtrain.core.owner.verdict import CardSeen, Seen, judge
from pushtrain.core.runs.room import Needs, could, heard, kept_from, part, place_of, told, version, without
from pushtrain.core.runs.room import given as gives
from pushtrain.core.values.card import Capacity
from pushtrain.core.values.jobspec import Resources
from pushtrain.testing import a_gpu

GB = 1 << 30


def test_capabilities_compare_as_numbers() -> None:
    assert [version(text) for text in ("", "8.0", "8.9", "10.0", "12.1")] == [0, 800, 809, 1000, 1201]


def test_a_shared_card_is_charged_by_its_part() -> None:
    gpus = (a_gpu(0, memory=24 * GB), a_gpu(1, memory=80 * GB))
    shares = Resources(gpus=1, gpu_memory=6 * GB, gpu_share=True)
    assert part(shares, ("GPU-00000000",), gpus) == 0.25
    assert part(Resources(gpus=1, gpu_memory=6 * GB), ("GPU-00000000",), gpus) == 1.0
    assert part(shares, (), gpus) == 1.0


def test_who_waits_for_a_card_that_its_owner_uses_is_told_so_whatever_other_cards_are_lent() -> None:
    old, new = a_gpu(0, memory=24 * GB, capability="6.1"), a_gpu(1, memory=24 * GB, capability="8.9")
    using = CardSeen(new.uuid, 1, foreign_memory=9 * 10**9)
    verdict = judge(OwnerRules(), Seen(at=0, minute=0, cards=(CardSeen(old.uuid, 0), using)))

    def why(**asked: object) -> list[str]:
        found = kept_from(verdict, (old, new), Resources.model_validate(asked), reserve=GB)
        return [each.words for each in found]

    assert why(gpus=1) == [], "the other one does"
    assert why(gpus=1, gpu_capability="8.0") == ["the owner is using GPU 1 (9 GB)"]
    assert why(gpus=2) == ["the owner is using GPU 1 (9 GB)"]
    assert why(gpus=1, gpu_memory=24 * GB, gpu_share=True) == [], (
        "neither has as much to share: it is too small"
    )
    assert why() == [], "it needs none"


@given(
    st.lists(st.tuples(st.sampled_from([8, 24, 80]), st.none() | st.integers(0, 90)), max_size=8),
    st.builds(
        Needs,
        gpus=st.integers(1, 3),
        memory=st.integers(0, 90).map(lambda size: size * GB),
        share=st.just(False),
    )
    | st.builds(Needs, gpus=st.just(1), memory=st.integers(1, 90).map(lambda s: s * GB), share=st.just(True)),
)
def test_who_hears_what_is_free_decides_as_who_tells_it(
    cards: list[tuple[int, int | None]], needs: Needs
) -> None:
    places = [
        place_of(a_gpu(n, memory=size * GB), reserve=GB, shared=None if used is None else used * GB)
        for n, (size, used) in enumerate(cards)
    ]
    capacity = Capacity(slots=1, free_slots=0, free_gpus=0, queued=0, running=0, free=told(places))
    there = heard(capacity)
    mine, theirs = gives(places, needs), gives(there, needs)
    assert (mine is None) == (theirs is None)
    if mine is not None and theirs is not None:
        assert [one.memory for one in mine] == [one.memory for one in theirs]
        assert all(could(one, needs) for one in mine)
        rest = without(places, mine, needs)
        assert sum(place.room for place in rest) <= sum(place.room for place in places)
        assert all(place.room >= 0 for place in rest)
