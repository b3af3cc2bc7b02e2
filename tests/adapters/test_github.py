"""GitHub's webhook: its own payloads are understood, its own signatures verified, everything else refused."""

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pushtrain.adapters.hosts.github import GitHub
from pushtrain.core.errors import UsageError
from pushtrain.core.values.push import NO_COMMIT, Push
from pushtrain.ports import GitHost

FIXTURES = Path(__file__).parents[1] / "fixtures" / "github"
BRANCH = (FIXTURES / "push-branch.json").read_bytes()
HEADERS = {
    "x-github-event": "push",
    "x-github-delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
    "content-type": "application/json",
}
HOST: GitHost = GitHub()


def parsed(changes: dict[str, Any] | None = None, **headers: str) -> Push | None:
    event = json.loads(BRANCH)
    for path, value in (changes or {}).items():
        *outer, name = path.split(".")
        table = event
        for key in outer:
            table = table[key]
        table[name] = value
    return HOST.parse({**HEADERS, **headers}, json.dumps(event).encode())


def test_a_recorded_push_is_understood() -> None:
    assert HOST.parse(HEADERS, BRANCH) == Push(
        host="github.com",
        repository="Codertocat/Hello-World",
        repository_id="186853002",
        ref="refs/heads/master",
        before=NO_COMMIT,
        after="6113728f27ae82c7b1a177c8d03f9e96e0adf246",
        pusher="Codertocat",
        delivery="72d3162e-cc78-11e3-81ab-4c9367dc0958",
    )


def test_a_recorded_deletion_of_a_tag_is_a_push_that_deletes() -> None:
    push = HOST.parse(HEADERS, (FIXTURES / "push-tag-deleted.json").read_bytes())
    assert push is not None
    assert push.ref == "refs/tags/simple-tag"
    assert push.deletes


def test_a_ping_and_other_events_are_no_push() -> None:
    ping = (FIXTURES / "ping.json").read_bytes()
    assert HOST.parse({**HEADERS, "x-github-event": "ping"}, ping) is None
    assert parsed({}, **{"x-github-event": "pull_request"}) is None
    assert HOST.parse({}, b"anything") is None


def test_a_form_is_read_like_json() -> None:
    body = urlencode({"payload": BRANCH.decode()}).encode()
    headers = {**HEADERS, "content-type": "application/x-www-form-urlencoded"}
    assert HOST.parse(headers, body) == HOST.parse(HEADERS, BRANCH)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://github.com/octo/hello", "github.com"),
        ("https://GitHub.Example.org:443/octo/hello", "github.example.org"),
        ("http://127.0.0.1:8080/octo/hello", "127.0.0.1:8080"),
    ],
)
def test_the_host_is_that_of_the_repositorys_page(url: str, host: str) -> None:
    push = parsed({"repository.html_url": url, "repository.full_name": "octo/hello"})
    assert push is not None
    assert push.key == f"{host}/octo/hello"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ref": "main"}, "`ref` is 'main'"),
        ({"ref": 3}, "`ref` is missing"),
        ({"ref": "refs/heads/" + "x" * 1000}, "`ref` is"),
        ({"ref": "refs/heads/\ud800"}, "`ref` is"),
        ({"before": "0"}, "`before` is '0'"),
        ({"after": "A" * 40}, "`after` is"),
        ({"after": None}, "`after` is missing"),
        ({"repository": []}, "`repository` is missing"),
        ({"repository.full_name": "../../etc"}, "full_name"),
        ({"repository.full_name": "octo/.."}, "full_name"),
        ({"repository.full_name": "octo"}, "full_name"),
        ({"repository.html_url": "file:///etc"}, "html_url"),
        ({"repository.html_url": "https://user@[oops/x"}, "html_url"),
        ({"repository.html_url": "https://a b/x"}, "html_url"),
    ],
)
def test_a_payload_of_another_form_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match="not a push as GitHub sends it") as caught:
        parsed(changes)
    assert named in caught.value.message
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"x-github-delivery": ""}, BRANCH),
        ({"x-github-delivery": "a\nb"}, BRANCH),
        ({"content-type": "text/plain"}, BRANCH),
        ({}, b"{"),
        ({}, b"\xff\xfe"),
        ({}, b"[]"),
        ({}, b'{"ref": NaN}'),
        ({}, b"[" * 100_000),
        ({}, b'{"ref":' * 40 + b"1" + b"}" * 40),
        ({}, BRANCH.rstrip()[:-1] + b',"ref":"refs/heads/other"}'),
        ({}, b'{"ref": 1e999}'),
        ({}, b'{"ref": %s}' % (b"1" * 5000)),
        ({}, BRANCH.decode().encode("utf-16")),
        ({"content-type": "application/x-www-form-urlencoded"}, b"payload"),
        ({"content-type": "application/x-www-form-urlencoded"}, b"other=1"),
        ({"content-type": "application/x-www-form-urlencoded"}, b"payload=%FF"),
        ({"content-type": "application/x-www-form-urlencoded"}, b"payload=\xff"),
        ({"content-type": "application/x-www-form-urlencoded"}, b"payload={}&payload={}"),
    ],
)
def test_what_is_not_a_document_is_refused(headers: dict[str, str], body: bytes) -> None:
    with pytest.raises(UsageError):
        HOST.parse({**HEADERS, **headers}, body)


def test_a_repository_without_a_number_or_a_pusher_is_fine() -> None:
    for nobody in (None, {}, {"name": 3}, {"name": "\ud800"}):
        push = parsed({"repository.id": None, "pusher": nobody})
        assert push is not None
        assert (push.repository_id, push.pusher) == ("", "")


def test_githubs_documented_example_verifies() -> None:
    # https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries#testing-the-webhook-payload-validation
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    secret, body = b"It's a Secret to Everybody", b"Hello, World!"
    assert HOST.verify({"x-hub-signature-256": signature}, body, secret)
    assert not HOST.verify({"x-hub-signature-256": signature}, body + b"!", secret)
    assert not HOST.verify({"x-hub-signature-256": signature}, body, b"another")
    assert not HOST.verify({"x-hub-signature-256": signature.upper()}, body, secret)
    assert not HOST.verify({"x-hub-signature": signature}, body, secret)
    assert not HOST.verify({}, body, secret)
    assert not HOST.verify({"x-hub-signature-256": "sha256=\udcff"}, body, secret)


def test_an_empty_secret_verifies_nothing() -> None:
    signature = "sha256=" + hmac.new(b"", b"body", hashlib.sha256).hexdigest()
    assert not HOST.verify({"x-hub-signature-256": signature}, b"body", b"")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    body=st.binary() | st.builds(lambda value: json.dumps(value).encode(), _JSON),
    kind=st.sampled_from(["application/json", "application/x-www-form-urlencoded", "text/plain"]),
)
@example(body=quote_plus("payload={}").encode(), kind="application/x-www-form-urlencoded")
def test_no_body_leads_to_anything_but_a_push_or_a_usage_error(body: bytes, kind: str) -> None:
    with pytest.raises(UsageError):
        HOST.parse({**HEADERS, "content-type": kind}, body)


@given(
    field=st.sampled_from(["ref", "before", "after", "repository", "pusher", "repository.id"]), value=_JSON
)
def test_a_field_of_any_kind_leads_to_a_push_or_a_usage_error(field: str, value: Any) -> None:
    event = json.loads(BRANCH)
    table, name = (event["repository"], "id") if field == "repository.id" else (event, field)
    table[name] = value
    try:
        push = HOST.parse(HEADERS, json.dumps(event).encode())
    except UsageError:
        return
    assert push is not None
    assert push.ref.startswith("refs/")
