"""Sealed secrets: which of them a run may have, and what somebody who can write the file can do."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.errors import ConfigError, UsageError
from pushtrain.core.values.secretname import problem
from pushtrain.core.wire.secrets import (
    MAX_ENTRY,
    BrokenSecrets,
    Sealed,
    Wanted,
    best,
    check_patterns,
    covers,
    hindrance,
    next_time,
    parse,
    scope,
    sign,
    value_problem,
    with_entry,
    without,
)
from pushtrain.core.wire.signing import fingerprint, public_text
from pushtrain.testing import NOON, REPOSITORY

ADA = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
EVE = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
ADA_ID, EVE_ID = fingerprint(ADA.public_key()), fingerprint(EVE.public_key())
MACHINE = "x25519:" + "A" * 43 + "="
OTHER_MACHINE = "x25519:" + "B" * 42 + "A="
ON_MAIN = Wanted(repository=REPOSITORY, job="train", ref="refs/heads/main")


def an_entry(key: Ed25519PrivateKey = ADA, **changes: object) -> Sealed:
    entry = Sealed(
        name="WANDB_API_KEY",
        repository=REPOSITORY,
        job="*",
        branch="**",
        recipient=MACHINE,
        sealed_at=int(NOON) * 1000,
        sealer=public_text(key.public_key()),
        sealed="c2VhbGVk",
    )
    return sign(Sealed(**{**dict(entry), **changes}), key)


def why(entry: Sealed, wanted: Wanted = ON_MAIN, **changes: object) -> str:
    told = {"recipient": MACHINE, "may_seal": {ADA_ID: ""}, "newest": {}, "now": NOON}
    return hindrance(entry, wanted, **{**told, **changes})  # type: ignore[arg-type]


def test_a_secret_for_every_job_and_branch_is_for_this_run() -> None:
    assert why(an_entry()) == ""


@pytest.mark.parametrize(
    ("job", "branch", "wanted", "fits"),
    [
        ("train", "main", ON_MAIN, True),
        ("train", "main", ON_MAIN.model_copy(update={"ref": "refs/heads/feature"}), False),
        ("train", "main", ON_MAIN.model_copy(update={"job": "train2"}), False),
        ("train*", "release/*", ON_MAIN.model_copy(update={"ref": "refs/heads/release/2"}), True),
        ("*", "*", ON_MAIN.model_copy(update={"ref": "refs/heads/a/b"}), False),
        ("*", "**", ON_MAIN.model_copy(update={"ref": "refs/tags/v1"}), True),
        ("*", "main", ON_MAIN.model_copy(update={"ref": "refs/tags/main"}), False),
        ("*", "refs/tags/v*", ON_MAIN.model_copy(update={"ref": "refs/tags/v1"}), True),
        ("*", "refs/tags/v*", ON_MAIN.model_copy(update={"ref": "refs/heads/refs/tags/v1"}), False),
        ("*", "[", ON_MAIN, False),
        ("!train", "**", ON_MAIN, False),
    ],
)
def test_patterns_say_which_job_and_which_branch_may_have_it(
    job: str, branch: str, wanted: Wanted, fits: bool
) -> None:
    assert covers((job,), (branch,), wanted) is fits
    assert (why(an_entry(job=job, branch=branch), wanted) == "") is fits


def test_whoever_can_push_cannot_bind_a_secret_to_another_job_branch_or_name() -> None:
    entry = an_entry(job="train", branch="main")
    for change in ({"branch": "**"}, {"job": "*"}, {"name": "OTHER"}, {"expires": 0, "sealed_at": 1}):
        forged = entry.model_copy(update=change)
        assert forged.slot != entry.slot or forged.bound != entry.bound
        assert forged.bound != entry.bound, "and the seal does not open"
        assert not forged.genuine
        assert why(forged) == "is not signed by the key that it names"


def test_whoever_can_push_cannot_replace_a_value_by_one_of_his_own() -> None:
    swapped = an_entry().model_copy(update={"sealed": "ZXZpbA=="})
    assert why(swapped) == "is not signed by the key that it names"
    own = an_entry(EVE, sealed="ZXZpbA==")
    assert why(own) == f"was sealed by {EVE_ID}: its key is not authorised here"
    assert why(own, may_seal={EVE_ID: "its key may only read"}).endswith("its key may only read")
    stolen = sign(an_entry().model_copy(update={"sealer": public_text(EVE.public_key())}), EVE)
    assert stolen.bound != an_entry().bound, "a seal under another name does not open"


def test_an_old_value_that_is_put_back_is_not_believed() -> None:
    entry = an_entry()
    assert "older than one" in why(entry, newest={entry.slot: entry.sealed_at + 1})
    assert why(entry, newest={entry.slot: entry.sealed_at}) == ""


def test_a_secret_that_was_removed_is_not_given_and_its_removal_is_signed() -> None:
    entry, removal = an_entry(), an_entry(sealed="", sealed_at=int(NOON) * 1000 + 1)
    assert removal.slot == entry.slot
    assert why(removal) == "was removed"
    assert "older" in why(entry, newest={removal.slot: removal.sealed_at})


def test_a_secret_for_others_is_told_as_such() -> None:
    assert "another executor" in why(an_entry(recipient=OTHER_MACHINE))
    assert "repository localhost/x" in why(an_entry(repository="localhost/x"))
    assert why(an_entry(expires=int(NOON))).startswith("expired on 2026-09-21")
    assert why(an_entry(expires=int(NOON) + 1)) == ""
    assert "the job eval on main" in why(an_entry(job="eval", branch="main"))
    assert scope("*", "**") == "every job on every branch"


def test_no_sealer_is_believed_whose_key_is_none() -> None:
    entry = an_entry().model_copy(update={"sealer": "ed25519:nonsense"})
    assert not entry.genuine
    assert entry.sealer_id == ""
    with pytest.raises(ValueError, match="sealer"):
        sign(entry, ADA)


def test_the_closest_fit_wins_then_the_newest() -> None:
    wide, newer = an_entry(), an_entry(EVE, sealed_at=int(NOON) * 1000 + 5)
    branch, job = an_entry(branch="main"), an_entry(job="train")
    assert best([wide, newer]) == newer
    assert best([wide, newer, branch]) == branch
    assert best([job, branch, newer]) == job
    assert best([]) is None


# --- the file ---------------------------------------------------------------------------------------------


def test_an_entry_that_is_written_is_read_back() -> None:
    text = with_entry("", an_entry())
    assert parse(text).entries == (an_entry(),)
    assert json.loads(text)["version"] == 1
    changed = an_entry(sealed="bmV3", sealed_at=int(NOON) * 1000 + 1)
    assert parse(with_entry(text, changed)).entries == (changed,)
    assert next_time(text, NOON - 60, {an_entry().slot}) == int(NOON) * 1000 + 1
    assert next_time(text, NOON - 60, set()) == int(NOON - 60) * 1000


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from(["main", "dev"])), max_size=6, unique=True))
def test_the_neighbours_keep_every_byte(others: list[tuple[str, str]]) -> None:
    text = '{"version": 1,  "note": 1e400, "secrets": {"junk":   {"a" : 1e999} }}'
    for name, branch in others:
        text = with_entry(text, an_entry(EVE, name=f"{name}_KEY", branch=branch))
    own = an_entry()
    changed = with_entry(text, own)
    for kept in ('"junk":   {"a" : 1e999}', '"note": 1e400', *parse(text).entries):
        assert kept in changed if isinstance(kept, str) else kept in parse(changed).entries
    assert without(changed, {own.slot}) == (text if others else without(changed, {own.slot}))
    assert parse(without(changed, {own.slot})).entries == parse(text).entries
    assert without(text, {own.slot}) == text


def test_an_entry_that_cannot_be_read_spoils_no_other() -> None:
    good = an_entry()
    moved = good.model_dump(mode="json")
    text = json.dumps(
        {
            "version": 1,
            "secrets": {
                good.slot: moved,
                "0" * 32: moved,
                "1" * 32: {"name": "LD_PRELOAD"},
                "2" * 32: "x" * (MAX_ENTRY + 1),
                "3" * 32: [1, 2],
            },
        }
    )
    found = parse(text)
    assert found.entries == (good,)
    told = {unread.slot[0]: unread.why for unread in found.unread}
    assert told["0"] == "it does not stand in its place"
    assert "changes how programs run" in told["1"]
    assert "characters" in told["2"]
    assert "3" in told
    twice = f'{{"version": 1, "secrets": {{"{good.slot}": {json.dumps(moved)}, "{good.slot}": 1}}}}'
    assert [unread.why for unread in parse(twice).unread] == ["it stands there twice"]
    assert without('{"version": 1, "secrets": {"a": 1}}', {"a"}) == '{"version": 1, "secrets": {}}'


def test_what_is_no_such_file_is_told_with_the_mend() -> None:
    with pytest.raises(BrokenSecrets, match="pushtrain secret set"):
        parse("[]")
    with pytest.raises(ConfigError, match="Upgrade"):
        parse('{"version": 2}')
    assert parse("").entries == ()
    assert parse('{"version": 1}').entries == ()


# --- names and patterns -----------------------------------------------------------------------------------


OBEYED = """PATH LD_PRELOAD ld_preload PYTHONPATH PYTHONSTARTUP PUSHTRAIN PUSHTRAIN_RUN_ID GIT_SSH_COMMAND
CUDA_VISIBLE_DEVICES BASH_ENV HOME GITHUB_SHA LC_ALL A-B 1A A=B É"""


@pytest.mark.parametrize("name", [*OBEYED.split(), "", "A" * 101])
def test_a_name_that_programs_obey_is_refused(name: str) -> None:
    assert problem(name)
    with pytest.raises(ValueError, match="name") as raised:
        an_entry(name=name)
    assert "is" in str(raised.value)


def test_a_value_in_the_place_of_a_name_is_not_repeated_in_the_error() -> None:
    assert "capitals" in problem("hf_kTokenThatShouldNotBeHere")


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "HF_TOKEN", "GITHUB_TOKEN", "_X", "AWS_SECRET_ACCESS_KEY"])
def test_an_ordinary_name_is_fine(name: str) -> None:
    assert not problem(name)


@pytest.mark.parametrize(("job", "branch"), [("", "**"), ("*", ""), ("!a", "**"), ("*", "[z"), ("*", "!x")])
def test_a_pattern_that_selects_nothing_is_refused(job: str, branch: str) -> None:
    with pytest.raises(UsageError, match="pattern"):
        check_patterns(job, branch)
    check_patterns("train", "release/*")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("short", "fewer than 8"),
        ("  abc   \n", "fewer than 8"),
        ("abababab", "three characters"),
        ("with a \0 inside", "NUL"),
        ("x0yz" * 12289, "at most 49152"),
        ("hunter22", ""),
        ("schlüssel", ""),
    ],
)
def test_a_value_that_could_not_be_hidden_or_passed_on_is_refused(value: str, told: str) -> None:
    assert told in value_problem(value)
    assert bool(told) is bool(value_problem(value))
    assert value not in value_problem(value)
