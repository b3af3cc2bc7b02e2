"""docs/config.schema.json says what a roster is: what we write fits it, and what it says is what we read."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pushtrain.core.values.card import ExecutorCard, Gpu
from pushtrain.core.wire.cardschema import URL, json_schema
from pushtrain.core.wire.roster import LIFETIME, Standing, judge, parse, sign_card, with_card
from pushtrain.core.wire.signing import public_text
from pushtrain.testing import NOON, a_card, a_gpu

DOCS = Path(__file__).parents[3] / "docs"
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
VALIDATOR = jsonschema.Draft7Validator(json_schema())


def roster(**changes: object) -> dict[str, Any]:
    given = {"gpus": (a_gpu(),), "labels": ("a100",), "sequence": 1, "expires": NOON + LIFETIME, **changes}
    card = a_card(public_key=public_text(KEY.public_key()), **given)
    found: dict[str, Any] = json.loads(with_card("", sign_card(card, KEY)))
    return found


def test_the_schema_in_the_documents_is_the_one_that_we_print(capsys: pytest.CaptureFixture[str]) -> None:
    from pushtrain.cli.schema import schema

    schema("config.json")
    assert (DOCS / "config.schema.json").read_text(encoding="utf-8") == capsys.readouterr().out
    assert URL.endswith("docs/config.schema.json")
    jsonschema.Draft7Validator.check_schema(json_schema())


def test_it_describes_every_field_of_a_card_and_of_a_gpu() -> None:
    (card,) = json_schema()["properties"]["executors"]["patternProperties"].values()
    assert card["properties"].keys() == ExecutorCard.model_fields.keys()
    assert card["properties"]["gpus"]["items"]["properties"].keys() == Gpu.model_fields.keys()


@pytest.mark.parametrize(
    "changes", [{}, {"public_url": "", "ip": "", "port": 0}, {"online": False}, {"timestamp": NOON + 0.5}]
)
def test_what_we_write_fits_it_with_fields_of_others_too(changes: dict[str, object]) -> None:
    document = roster(**changes)
    VALIDATOR.validate(document)
    (card,) = document["executors"].values()
    card["mood"] = card["gpus"][0]["mood"] = document["mood"] = {"fine": True}
    VALIDATOR.validate(document)


@pytest.mark.parametrize(
    "change",
    [{"signature": "x"}, {"public_key": "x"}, {"public_url": "file:///x"}, {"port": 70000}, {"gpus": [{}]}],
)
def test_what_could_not_be_believed_does_not_fit_it(change: dict[str, object]) -> None:
    document = roster()
    (card,) = document["executors"].values()
    card.update(change)
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(document)


def test_the_example_in_the_documents_is_a_genuine_card() -> None:
    page = (DOCS / "config-json.md").read_text(encoding="utf-8")
    text = page.split("```json\n", 1)[1].split("```", 1)[0]
    VALIDATOR.validate(json.loads(text))
    (listed,) = parse(text).cards
    assert listed.genuine
    verdict = judge(listed, genuine=True, trusted={listed.fingerprint}, newest=0, now=listed.card.timestamp)
    assert verdict.standing is Standing.TRUSTED
    assert listed.card.expires == listed.card.timestamp + LIFETIME
