"""docs/owners.md, the page for who lends: it tells of every reason for which a machine is not lent."""

import re
from pathlib import Path

from pushtrain.core.owner.lending import OwnerRules
from pushtrain.core.owner.verdict import CardSeen, Seen, Stance, Why, judge

PAGE = (Path(__file__).parent.parent / "docs" / "owners.md").read_text()
GB = 10**9
RULES = OwnerRules.model_validate(
    {"hours": ["Sat,Sun"], "idle": 600, "kwh_per_day": 5, "display": False, "load": 1, "settle": 60}
)
CANNOT_TELL = OwnerRules(idle=600)
SATURDAY = 5 * 1440
DOES = {Stance.HELD: "goes on", Stance.YIELD: "gives back", Stance.VACATE: "is ended at once"}


def card(**seen: object) -> tuple[CardSeen, ...]:
    return (CardSeen("GPU-0", 0, **seen),)  # type: ignore[arg-type]


def test_every_reason_is_told_as_borrowers_read_it_with_what_becomes_of_runs() -> None:
    there = Seen(at=0, minute=SATURDAY, idle=3600.0)
    usual = judge(RULES, there)
    everything = Seen(
        at=100, minute=0, paused_until=1e9, idle=1, full_screen=True, game=True, load=4, on_battery=True,
        slurm=True, kwh_today=5,
        cards=card(foreign_memory=9 * GB, foreign_utilization=90, display=True, temperature=99),
    )  # fmt: skip
    after = judge(RULES, everything, usual)
    verdicts = (
        after,
        judge(RULES, Seen(at=130, minute=SATURDAY, idle=3600.0), after),
        judge(CANNOT_TELL, Seen(at=0, minute=0)),
        judge(RULES, Seen(at=0, minute=SATURDAY, idle=3600.0, cards=card(trouble="fallen-off"))),
    )
    found = {one.why: one for each in verdicts for some in each.findings.values() for one in some}
    assert found.keys() == set(Why)
    rows = re.findall(r"^\| `([a-z-]+)` \| (.*?) \| ((?:goes|gives|is).*?) \|$", PAGE, re.MULTILINE)
    assert {name: words for name, words, _ in rows} == {why: one.words for why, one in found.items()}
    assert {name: does.partition(",")[0] for name, _, does in rows} == {
        why: DOES[one.stance] for why, one in found.items()
    }
