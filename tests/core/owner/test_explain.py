"""Every rule is told in plain language, with its value and where it came from."""

import pytest

from pushtrain.core.owner.explain import entry_in_words, every_rule, explain
from pushtrain.core.owner.lending import OwnerRules
from pushtrain.core.owner.rules import Allow, Hooks, Limits, Rules

FULL = Rules(
    allow=(Allow(branches=("main",)),),
    committed_jobs=True,
    require_signed_commits=True,
    allowed_signers="/signers",
    gpg_keyring="/ring",
    allow_data_hosts=("10.0.0.5:9000",),
    data_credentials=("s3://lab",),
    results_branches=("reports",),
    artifact_urls=("s3://bucket/x",),
    submodules=("github.com/octo/*",),
    limits=Limits(
        memory=32 * 10**9,
        downloads_per_day=200 * 10**9,
        data=10**9,
        gpu_hours_per_day=8,
        priority=0,
        gpu_idle=3600,
    ),
    hooks=Hooks(before=(("/bin/a", "x"),), after=(("/bin/b",), ("/bin/c",))),
    owner=OwnerRules(
        hours=("Sat,Sun",),
        idle=600,
        full_screen=False,
        gpu_memory=0,
        gpu_utilization=50,
        reserve=0,
        display=False,
        load=2,
        battery=True,
        temperature=80,
        grace=0,
        settle=0,
        kwh_per_day=5,
        slurm=False,
        nice=0,
        bandwidth=10**6,
        quiet=("09:00-17:00",),
    ),
)


@pytest.mark.parametrize("rules", [Rules(), FULL])
def test_every_rule_has_its_words(rules: Rules) -> None:
    rows = explain(rules, {})
    assert sorted(row.rule for row in rows) == sorted(every_rule())
    assert all(row.value and row.means.endswith(".") for row in rows)


def test_the_words_follow_the_values() -> None:
    plain = {row.rule: (row.value, row.means) for row in explain(Rules(), {})}
    full = {row.rule: (row.value, row.means) for row in explain(FULL, {})}
    same = {rule for rule, told in plain.items() if told == full[rule]}
    unchanged = {"min_isolation", "network", "hooks.timeout", "limits.time", "limits.disk", "limits.log"}
    unchanged |= {
        f"limits.{name}" for name in ("processes", "files", "repository", "data_files", "data_ratio")
    }
    assert same == {f"rules.{name}" for name in unchanged}
    assert full["rules.limits.memory"][0] == "32 GB"
    assert full["rules.hooks.after"][0] == "/bin/b, /bin/c"


def test_where_a_value_came_from_is_told() -> None:
    origins = {("rules", "network"): "--network", ("rules", "limits", "time"): "PUSHTRAIN_RULES_LIMITS_TIME"}
    found = {row.rule: row.origin for row in explain(Rules(), origins)}
    assert found["rules.network"] == "--network"
    assert found["rules.limits.time"] == "PUSHTRAIN_RULES_LIMITS_TIME"
    assert found["rules.allow"] == "default"


PLAIN = "every repository that is served here: every branch and every tag; no pull requests; sent by any"
OCTO = "github.com/octo/*, if its host says that its number is 7: branches `main`, `dev` and no tag;"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (Allow(), PLAIN),
        (Allow(repository="github.com/octo/*", id="7", branches=("main", "dev"), tags=()), OCTO),
        (Allow(senders=("ada", "owner")), "sent by `ada`, `owner`"),
        (Allow(pull_requests=True), "pull requests, but none from a fork"),
        (Allow(pull_requests=True, forks=True), "pull requests, from forks too"),
    ],
)
def test_an_entry_in_words(entry: Allow, words: str) -> None:
    assert words in entry_in_words(entry)
