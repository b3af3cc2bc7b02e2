"""The roster: cards are believed or passed over with the reason, and editing one leaves the others alone."""

import base64
import contextlib
import json
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.errors import ConfigError
from pushtrain.core.text.members import NoObject, members
from pushtrain.core.values.card import ExecutorCard
from pushtrain.core.wire.roster import (
    LIFETIME,
    MAX_CARD,
    MAX_CARDS,
    MAX_ROSTER,
    PREFIX,
    BrokenRoster,
    Standing,
    judge,
    parse,
    sign_card,
    with_card,
    wrong_address,
)
from pushtrain.core.wire.signing import fingerprint, public_text
from pushtrain.testing import NOON, a_card, a_gpu

KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)) for number in range(1, 6)]
KEY = KEYS[0]


def name_of(key: Ed25519PrivateKey) -> str:
    return fingerprint(key.public_key())


def card_of(key: Ed25519PrivateKey = KEY, **changes: object) -> ExecutorCard:
    given = {"public_url": "https://lab.example", "sequence": 7, "expires": NOON + LIFETIME, **changes}
    return sign_card(a_card(public_key=public_text(key.public_key()), **given), key)


def listed(document: dict[str, Any], key: Ed25519PrivateKey = KEY) -> str:
    return json.dumps({"version": 1, "executors": {name_of(key): document}})


def document_of(card: ExecutorCard) -> dict[str, Any]:
    return card.model_dump(mode="json")


def verdict(text: str, **changes: Any) -> tuple[Standing, str, str]:
    (found,) = parse(text).cards
    given = {"genuine": found.genuine, "trusted": {name_of(KEY)}, "newest": 0, "now": NOON, **changes}
    judged = judge(found, **given)
    return judged.standing, judged.why, judged.mend


# --- signatures ---


def test_a_signed_card_is_believed_until_it_expires() -> None:
    text = with_card("", card_of())
    assert verdict(text) == (Standing.TRUSTED, "", "")
    assert verdict(text, now=NOON + LIFETIME - 1)[0] is Standing.TRUSTED
    assert verdict(text, now=NOON + LIFETIME)[0] is Standing.EXPIRED


def test_the_signature_covers_the_canonical_bytes_behind_our_prefix() -> None:
    card = card_of(gpus=(a_gpu(),), labels=("a100",))
    (found,) = parse(with_card("", card)).cards
    document = {name: value for name, value in document_of(card).items() if name != "signature"}
    assert found.signed == PREFIX + rfc8785.dumps(document)
    assert found.card == card


def test_a_neighbour_may_re_serialise_the_file() -> None:
    text = with_card("", card_of(gpus=(a_gpu(),)))
    for again in (
        json.dumps(json.loads(text)),
        json.dumps(json.loads(text), indent=7, sort_keys=True),
        text.replace(str(int(NOON)), f"{NOON:.1f}"),
        text.replace("\n", "\r\n"),
    ):
        assert verdict(again)[0] is Standing.TRUSTED


def test_fields_that_we_do_not_know_are_covered_by_the_signature() -> None:
    document = {**document_of(card_of()), "moods": {"today": ["good", 1.50]}, "signature": ""}
    unsigned = {name: value for name, value in document.items() if name != "signature"}
    document["signature"] = base64.b64encode(KEY.sign(PREFIX + rfc8785.dumps(unsigned))).decode()
    assert verdict(listed(document))[0] is Standing.TRUSTED
    document["moods"] = {"today": ["bad", 1.50]}
    assert verdict(listed(document))[0] is Standing.FORGED


def test_fields_of_a_gpu_that_we_do_not_know_do_not_hide_the_card() -> None:
    document = document_of(card_of(gpus=(a_gpu(),)))
    document["gpus"][0]["compute"] = "9.0"
    (found,) = parse(listed(document)).cards
    assert found.card.gpus == (a_gpu(),)
    assert not found.genuine


@given(st.sampled_from(sorted(set(ExecutorCard.model_fields) - {"signature"})), st.data())
def test_no_field_can_change_without_the_signature_breaking(field: str, data: st.DataObject) -> None:
    document = document_of(card_of(gpus=(a_gpu(),), labels=("x",), mounts=("y",), repositories=("h/z",)))
    value = document[field]
    other: Any
    if isinstance(value, bool):
        other = not value
    elif isinstance(value, int | float):
        other = value + data.draw(st.integers(1, 1000))
    elif isinstance(value, str):
        other = value + data.draw(st.text("abc", min_size=1))
    else:
        other = value[:-1] if value else ["x"]
    text = listed({**document, field: other})
    assert [one.genuine for one in parse(text).cards] in ([False], [])


@pytest.mark.parametrize("signature", ["", "AAAA", "?", "A" * 86 + "==", "ü"])
def test_a_wrong_signature_is_no_signature(signature: str) -> None:
    assert verdict(listed({**document_of(card_of()), "signature": signature}))[0] is Standing.FORGED


def test_a_card_under_somebody_elses_fingerprint_is_not_genuine() -> None:
    text = json.dumps({"version": 1, "executors": {name_of(KEYS[1]): document_of(card_of(KEY))}})
    assert verdict(text, trusted={name_of(KEY), name_of(KEYS[1])})[0] is Standing.FORGED


def test_a_card_names_no_key_at_all() -> None:
    assert verdict(listed({**document_of(card_of()), "public_key": "none"}))[0] is Standing.FORGED


def test_a_card_is_signed_only_by_the_key_that_it_names() -> None:
    with pytest.raises(ValueError, match="the key that it names"):
        sign_card(card_of(KEYS[1]), KEY)


# --- what a card is worth ---


def test_an_unknown_key_is_told_with_the_command_that_trusts_it() -> None:
    standing, why, mend = verdict(with_card("", card_of()), trusted=())
    assert standing is Standing.UNKNOWN
    assert "not trusted" in why
    assert f"`pushtrain key trust {card_of().public_key}`" in mend


def test_an_older_card_than_one_seen_is_refused_and_the_same_one_is_not() -> None:
    text = with_card("", card_of(sequence=7))
    assert verdict(text, newest=8)[0] is Standing.OLDER
    assert verdict(text, newest=7)[0] is Standing.TRUSTED


def test_a_stopped_executor_is_offline() -> None:
    assert verdict(with_card("", card_of(online=False)))[0] is Standing.OFFLINE


def test_a_card_that_was_never_published_is_not_believed() -> None:
    assert verdict(with_card("", card_of(expires=0)))[0] is Standing.EXPIRED


def test_an_executor_without_a_tunnel_has_no_address() -> None:
    assert verdict(with_card("", card_of(public_url="")))[:2] == (
        Standing.NO_ADDRESS,
        "its executor takes no calls: it has no tunnel",
    )


def test_plain_http_leads_only_to_this_machine_unless_the_owner_allows_it() -> None:
    text = with_card("", card_of(public_url="http://lab.example:8421"))
    standing, why, mend = verdict(text)
    assert (standing, "plain http" in why, "allow_http" in mend) == (Standing.NO_ADDRESS, True, True)
    assert verdict(text, allow_http=True)[0] is Standing.TRUSTED
    assert verdict(with_card("", card_of(public_url="http://127.0.0.1:8421")))[0] is Standing.TRUSTED


@pytest.mark.parametrize("url", ["http://localhost:1", "http://[::1]:8421/", "https://a.b", "HTTPS://a.b:1"])
def test_addresses_that_are_dialled(url: str) -> None:
    assert wrong_address(url) == ""


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://a.b",
        "https://",
        "https://[::1",
        "https://a.b:99999",
        "https://user@a.b",
        "https://a.b/path",
        "https://a.b?x=1",
        "https://a.b#x",
        "https://a b",
        "https://a.b\n",
        "//a.b",
        "http://10.0.0.1",
        "http://localhost.example",
    ],
)
def test_addresses_that_are_not_dialled(url: str) -> None:
    assert wrong_address(url)
    standing, _, mend = verdict(with_card("", card_of(public_url=url)))
    assert standing is Standing.NO_ADDRESS
    assert bool(mend) == url.startswith("http://")


# --- reading ---


@pytest.mark.parametrize("text", ["", " \n", '{"version": 1}', '{"version": 1, "executors": {}}'])
def test_a_roster_may_be_empty(text: str) -> None:
    assert parse(text).cards == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "not a JSON object"),
        ("{", "ends too early"),
        ("<<<<<<< HEAD\n{}", "not a JSON object"),
        ('{"version": 1} x', "follows its end"),
        ('{"version": 1 "executors": {}}', "`,`"),
        ('{"version": 1, }', "a name is missing"),
        ('{"version" 1}', "`:` is missing"),
        ('{"version": }', "a value is missing"),
        ('{"\\q": 1}', "not a name"),
        ("{}", "`version` is missing"),
        ('{"version": "1"}', "`version`"),
        ('{"version": 0}', "`version`"),
        ('{"version": 1, "version": 1}', "`version` stands there twice"),
        ('{"version": 1, "executors": []}', "`executors` is no object"),
        ('{"version": 1, "executors": {}, "executors": {}}', "`executors` stands there twice"),
        (f'{{"version": 1, "x": "{"x" * MAX_ROSTER}"}}', "characters"),
    ],
)
def test_what_is_no_roster_is_told_with_its_mend(text: str, words: str) -> None:
    with pytest.raises(BrokenRoster) as error:
        parse(text, source="pushtrain/config:config.json")
    assert words in str(error.value)
    assert "pushtrain/config:config.json" in str(error.value)
    assert error.value.mend


def test_too_many_cards_are_no_roster() -> None:
    inside = ",".join(f'"{number}": 1' for number in range(MAX_CARDS + 1))
    with pytest.raises(BrokenRoster, match="cards"):
        parse(f'{{"version": 1, "executors": {{{inside}}}}}')


def test_a_newer_roster_is_left_to_a_newer_pushtrain() -> None:
    for attempt in (parse, lambda text: with_card(text, card_of())):
        with pytest.raises(ConfigError, match="version 2") as error:
            attempt('{"version": 2, "executors": []}')
        assert not isinstance(error.value, BrokenRoster)


BAD = {
    "wrong type": '"x"',
    "no json": "{tru: e}",
    "a field is missing": "{}",
    "a field is of another type": json.dumps({**a_card().model_dump(mode="json"), "port": "8421"}),
    "infinite": '{"x": 1e999}',
    "not a number": '{"x": NaN}',
    "a name twice": '{"x": 1, "x": 2}',
    "a number that readers differ on": json.dumps(
        {**a_card().model_dump(mode="json"), "x": 2**60},
    ),
    "deep": "[" * 5000 + "]" * 5000,
    "large": json.dumps({"x": "x" * MAX_CARD}),
    "no UTF-8": '"\udcff"',
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_card_is_passed_over_and_never_takes_the_roster_with_it(bad: str) -> None:
    good = json.dumps(document_of(card_of()))
    inside = f'"{name_of(KEYS[1])}": {bad}, "x": {good}, "{name_of(KEY)}": {good}'
    text = f'{{"version": 1, "executors": {{{inside}}}}}'
    roster = parse(text)
    assert [one.fingerprint for one in roster.cards] == [name_of(KEY)]
    assert [one.fingerprint for one in roster.unread] == [name_of(KEYS[1]), "x"]
    assert all(one.why for one in roster.unread)
    assert roster.find(name_of(KEY)) is roster.cards[0]
    assert roster.find(name_of(KEYS[1])) is None
    after = with_card(text, card_of(KEYS[2]))
    assert bad in after
    assert len(parse(after).cards) == 2


def test_a_card_that_stands_there_twice_is_ambiguous_until_its_executor_writes_it_anew() -> None:
    good = json.dumps(document_of(card_of()))
    text = f'{{"version": 1, "executors": {{"{name_of(KEY)}": {good}, "{name_of(KEY)}": {good}}}}}'
    (unread,) = parse(text).unread
    assert "twice" in unread.why
    assert len(parse(with_card(text, card_of())).cards) == 1


@given(st.text() | st.text('{}[]",: \\1\n'))
def test_any_text_is_a_roster_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert len(parse(text).cards) == 0


# --- writing ---


def test_the_first_card_makes_the_file_and_the_form_is_stable() -> None:
    text = with_card("", card_of(labels=("ü",)))
    assert json.loads(text) == {
        "version": 1,
        "executors": {name_of(KEY): json.loads(json.dumps(document_of(card_of(labels=("ü",)))))},
    }
    assert text.startswith(f'{{\n  "version": 1,\n  "executors": {{\n    "{name_of(KEY)}": {{\n      "name"')
    assert text.endswith("\n    }\n  }\n}\n")
    assert '"ü"' in text
    assert f'"timestamp": {int(NOON)},' in text
    assert with_card(text, card_of(labels=("ü",))) == text


@given(st.permutations(KEYS), st.permutations(KEYS))
def test_whoever_writes_first_the_file_ends_up_the_same(
    one: list[Ed25519PrivateKey], other: list[Ed25519PrivateKey]
) -> None:
    texts = []
    for order in (one, other):
        text = ""
        for key in order:
            text = with_card(text, card_of(key, sequence=1))
        for key in reversed(order):
            text = with_card(text, card_of(key, sequence=2))
        texts.append(text)
    assert texts[0] == texts[1]
    assert all(found.card.sequence == 2 and found.genuine for found in parse(texts[0]).cards)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text(), json_values, max_size=3),
    st.dictionaries(st.text(), json_values, max_size=3),
    st.sampled_from([None, 0, 2]),
    st.booleans(),
)
def test_everything_that_is_not_ours_stays_to_the_byte(
    top: dict[str, Any], others: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    whole = {**top, "version": 1, "executors": {**others, name_of(KEYS[1]): document_of(card_of(KEYS[1]))}}
    text = json.dumps(whole, indent=indent, ensure_ascii=ascii_only)

    def apart(text: str) -> tuple[list[str], list[str]]:
        outer = members(text)
        (executors,) = [member for member in outer if member.name == "executors"]
        inner = members(text, executors.at)
        mine = name_of(KEY)
        return (
            [text[member.name_at : member.end] for member in outer if member is not executors],
            [text[member.name_at : member.end] for member in inner if member.name != mine],
        )

    after = with_card(text, card_of())
    assert apart(after) == apart(text)
    again = with_card(after, card_of(sequence=8))
    assert apart(again) == apart(text)
    found = parse(again).find(name_of(KEY))
    assert found is not None
    assert (found.card.sequence, found.genuine) == (8, True)


def test_a_file_without_executors_gains_them_and_keeps_what_it_has() -> None:
    text = with_card('{"note": "ours", "version": 1}\n', card_of())
    assert json.loads(text)["note"] == "ours"
    assert len(parse(text).cards) == 1


def test_members_tell_where_names_and_values_are() -> None:
    text = ' {"a\\u0062" : [1, {"x": "]"}] ,"c":"\\"}"}\n'
    found = members(text)
    assert [(one.name, text[one.at : one.end]) for one in found] == [
        ("ab", '[1, {"x": "]"}]'),
        ("c", '"\\"}"'),
    ]
    with pytest.raises(NoObject):
        members(text, 3)
