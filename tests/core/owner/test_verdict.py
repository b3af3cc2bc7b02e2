from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.owner.lending import OwnerRules
from pushtrain.core.owner.verdict import (
    MACHINE,
    CardSeen,
    Seen,
    Stance,
    Verdict,
    Why,
    asks,
    free,
    judge,
    told,
)

GB = 10**9
NOON = 1_790_000_000.0


def seen(*cards: CardSeen, at: float = 0.0, **changed: Any) -> Seen:
    return Seen(**{"at": NOON + at, "minute": 720, "cards": cards, **changed})


def a_card(index: int = 0, **changed: Any) -> CardSeen:
    return CardSeen(**{"uuid": f"GPU-{index}", "index": index, **changed})


def whys(verdict: Verdict, uuid: str = MACHINE) -> list[Why]:
    return [each.why for each in verdict.of(uuid)]


def test_a_machine_that_nobody_uses_is_lent() -> None:
    verdict = judge(OwnerRules(), seen(a_card()))
    assert verdict.lent
    assert free(verdict, ["GPU-0"]) == ("GPU-0",)


def test_memory_in_use_is_use_also_at_no_utilisation() -> None:
    busy = a_card(foreign_memory=9 * GB, foreign_utilization=0, free_memory=15 * GB)
    verdict = judge(OwnerRules(), seen(busy, a_card(1)))
    assert whys(verdict, "GPU-0") == [Why.MEMORY]
    assert verdict.stance("GPU-0") is Stance.YIELD
    assert free(verdict, ["GPU-0", "GPU-1"]) == ("GPU-1",)
    assert told("lab-3", verdict.of("GPU-0")) == "lab-3 waits: the owner is using GPU 0 (9 GB)"


def test_a_desktop_that_only_draws_does_not_count() -> None:
    assert judge(OwnerRules(), seen(a_card(foreign_memory=400 * 2**20, foreign_utilization=8))).lent
    verdict = judge(OwnerRules(), seen(a_card(foreign_memory=400 * 2**20, foreign_utilization=60)))
    assert whys(verdict, "GPU-0") == [Why.UTILIZATION]


def test_the_grace_shrinks_to_nothing_when_the_owner_runs_out_of_memory() -> None:
    rules = OwnerRules(grace=30)
    roomy = a_card(foreign_memory=9 * GB, free_memory=5 * GB, lent=True)
    tight = a_card(foreign_memory=9 * GB, free_memory=GB // 2, lent=True)
    (ask,) = asks(rules, judge(rules, seen(roomy)), {"r1": ["GPU-0"]})
    assert ask.grace == 30
    (ask,) = asks(rules, judge(rules, seen(tight)), {"r1": ["GPU-0"]})
    assert ask.grace == 0


def test_a_run_without_a_gpu_is_asked_only_for_what_holds_for_the_machine() -> None:
    rules = OwnerRules()
    verdict = judge(rules, seen(a_card(foreign_memory=9 * GB)))
    assert [ask.run_id for ask in asks(rules, verdict, {"cpu": (), "gpu": ("GPU-0",)})] == ["gpu"]
    paused = judge(rules, seen(paused_until=float("inf")))
    assert {ask.run_id for ask in asks(rules, paused, {"cpu": (), "gpu": ("GPU-0",)})} == {"cpu", "gpu"}


def test_a_pause_ends_by_itself_when_it_was_given_a_time() -> None:
    rules = OwnerRules()
    verdict = judge(rules, seen(paused_until=NOON + 100))
    assert verdict.of()[0].until == NOON + 100
    assert judge(rules, seen(at=100, paused_until=NOON + 100), verdict).lent


def test_hours_tell_when_the_machine_is_lent_again() -> None:
    rules = OwnerRules(hours=("18:00-08:00",))
    verdict = judge(rules, seen())
    assert whys(verdict) == [Why.HOURS]
    assert verdict.of()[0].until == NOON + 6 * 3600
    assert judge(rules, seen(minute=18 * 60)).lent


def test_input_counts_only_where_the_owner_says_so() -> None:
    assert judge(OwnerRules(), seen(idle=1.0)).lent
    rules = OwnerRules(idle=300)
    assert whys(judge(rules, seen(idle=1.0))) == [Why.INPUT]
    assert judge(rules, seen(idle=301.0)).lent
    assert whys(judge(rules, seen(idle=None))) == [Why.UNKNOWN]
    stated = OwnerRules(idle=300, hours=("00:00-24:00",))
    assert judge(stated, seen(idle=None)).lent


def test_where_nothing_tells_of_the_owner_only_stated_hours_lend() -> None:
    blind = seen(a_card(), blind=True)
    assert whys(judge(OwnerRules(), blind)) == [Why.UNKNOWN]
    assert judge(OwnerRules(hours=("00:00-24:00",)), blind).lent
    assert judge(OwnerRules(), seen(a_card(), blind=True, idle=4000.0)).lent


def test_where_no_program_on_a_card_is_seen_the_owners_keys_count_unless_hours_are_stated() -> None:
    at_it = seen(a_card(), blind=True, idle=20.0)
    assert whys(judge(OwnerRules(), at_it)) == [Why.INPUT]
    assert judge(OwnerRules(), seen(a_card(), idle=20.0)).lent, "here they are seen on the card"
    assert judge(OwnerRules(), seen(blind=True, idle=20.0)).lent, "there is no card"
    assert judge(OwnerRules(hours=("00:00-24:00",)), at_it).lent
    assert judge(OwnerRules(idle=10), at_it).lent


def test_games_full_screens_batteries_slurm_and_energy_count() -> None:
    rules = OwnerRules(kwh_per_day=2)
    assert whys(judge(rules, seen(game=True))) == [Why.GAME]
    assert whys(judge(rules, seen(full_screen=True))) == [Why.FULL_SCREEN]
    assert whys(judge(rules, seen(on_battery=True))) == [Why.BATTERY]
    assert whys(judge(rules, seen(slurm=True))) == [Why.SLURM]
    assert whys(judge(rules, seen(kwh_today=2.0))) == [Why.ENERGY]
    off = OwnerRules(full_screen=False, battery=True, slurm=False)
    assert judge(off, seen(game=True, full_screen=True, on_battery=True, slurm=True, kwh_today=9)).lent


def test_load_and_heat_start_nothing_new_and_end_nothing() -> None:
    rules = OwnerRules(load=2)
    verdict = judge(rules, seen(a_card(temperature=95, lent=True), load=2.5))
    assert verdict.stance("GPU-0") is Stance.HELD
    assert set(whys(verdict, "GPU-0")) == {Why.LOAD, Why.HEAT}
    assert asks(rules, verdict, {"r1": ["GPU-0"]}) == ()


def test_a_card_out_of_order_is_vacated_at_once() -> None:
    rules = OwnerRules()
    verdict = judge(rules, seen(a_card(trouble="fallen-off"), a_card(1)))
    (ask,) = asks(rules, verdict, {"r1": ["GPU-0"], "r2": ["GPU-1"]})
    assert (ask.run_id, ask.grace) == ("r1", 0)


def test_a_card_is_lent_again_only_when_the_owner_has_been_away_for_a_while() -> None:
    rules = OwnerRules(settle=60)
    verdict = judge(rules, seen(a_card(foreign_memory=9 * GB)))
    verdict = judge(rules, seen(a_card(), at=10), verdict)
    assert whys(verdict, "GPU-0") == [Why.SETTLING]
    assert verdict.stance("GPU-0") is Stance.HELD
    verdict = judge(rules, seen(a_card(), at=59), verdict)
    assert not free(verdict, ["GPU-0"])
    assert free(judge(rules, seen(a_card(), at=60), verdict), ["GPU-0"])


def test_a_sleeping_card_is_lent() -> None:
    assert judge(OwnerRules(), seen(a_card(asleep=True))).lent


cards = st.builds(
    CardSeen,
    uuid=st.sampled_from(["GPU-0", "GPU-1", "GPU-2"]),
    index=st.integers(0, 2),
    foreign_memory=st.integers(0, 24 * GB),
    foreign_utilization=st.integers(0, 100),
    free_memory=st.none() | st.integers(0, 24 * GB),
    lent=st.booleans(),
    newcomer=st.booleans(),
    display=st.booleans(),
    temperature=st.none() | st.integers(20, 110),
    asleep=st.just(False),
    trouble=st.sampled_from(["", "fallen-off"]),
)
moments = st.builds(
    Seen,
    at=st.floats(NOON, NOON + 10**6),
    minute=st.integers(0, 7 * 24 * 60 - 1),
    paused_until=st.none() | st.floats(NOON, NOON + 10**6) | st.just(float("inf")),
    idle=st.none() | st.floats(0, 10**5),
    full_screen=st.booleans(),
    game=st.booleans(),
    load=st.floats(0, 64),
    on_battery=st.booleans(),
    slurm=st.booleans(),
    kwh_today=st.floats(0, 20),
    cards=st.lists(cards, max_size=3, unique_by=lambda card: card.uuid).map(tuple),
    blind=st.booleans(),
)
policies = st.builds(
    OwnerRules,
    hours=st.sampled_from([(), ("Mon-Fri 18:00-08:00", "Sat,Sun")]),
    idle=st.sampled_from([0, 300]),
    reserve=st.integers(0, 4 * GB),
    load=st.sampled_from([0, 4]),
    display=st.booleans(),
    kwh_per_day=st.sampled_from([0, 5]),
    settle=st.sampled_from([0, 60]),
)


@given(policies, st.lists(moments, min_size=1, max_size=4))
def test_nothing_is_ever_lent_while_the_owner_holds_the_card(rules: OwnerRules, moments: list[Seen]) -> None:
    verdict = Verdict(0, {}, {})
    for moment in sorted(moments, key=lambda each: each.at):
        verdict = judge(rules, moment, verdict)
        for card in moment.cards:
            if card.foreign_memory > rules.gpu_memory or card.trouble:
                assert free(verdict, [card.uuid]) == ()
                (ask,) = asks(rules, verdict, {"run": [card.uuid]})
                assert ask.grace <= rules.grace
                assert ask.finding.words


@given(policies, moments)
def test_what_is_lent_is_asked_for_nothing_and_what_is_asked_for_is_not_lent(
    rules: OwnerRules, moment: Seen
) -> None:
    verdict = judge(rules, moment)
    uuids = [card.uuid for card in moment.cards]
    asked = {ask.run_id for ask in asks(rules, verdict, {uuid: [uuid] for uuid in uuids})}
    assert not asked & set(free(verdict, uuids))
    assert judge(rules, moment) == verdict
