"""What a Git LFS server may say, and what of it counts."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.errors import GitError
from pushtrain.core.wire import lfsapi

ONE, TWO = "a" * 64, "b" * 64


def said(*objects: object, **more: object) -> bytes:
    return json.dumps({"objects": objects, **more}).encode()


def listed(oid: str = ONE, **download: Any) -> dict[str, Any]:
    return {"oid": oid, "size": 1, "actions": {"download": {"href": "https://h.org/x", **download}}}


def test_an_answer_gives_each_object_its_url_and_headers() -> None:
    header = {"Authorization": "Basic eA==", "X-Amz": "1"}
    raw = said(listed(header=header, expires_in=60), listed(TWO), {"oid": "c" * 64}, 5, transfer="basic")
    found = lfsapi.answer(raw, {ONE: 1, TWO: 1})
    assert found == {
        ONE: lfsapi.Source("https://h.org/x", header, expires=True),
        TWO: lfsapi.Source("https://h.org/x"),
    }


@pytest.mark.parametrize(
    "name",
    ["Host", "content-length", "Transfer-Encoding", "Range", "If-Range", "Proxy-Authorization", "Connection"],
)
def test_a_server_does_not_write_the_headers_that_say_what_a_request_is(name: str) -> None:
    assert lfsapi.answer(said(listed(header={name: "x", "A": "1"})), {ONE: 1})[ONE].header == {"A": "1"}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b'{"objects": 1}',
        said(listed(), transfer="ssh"),
        said(listed(TWO)),
        said(listed(href="")),
        said(listed(href=5)),
        said(listed(href="https://h.org/" + "x" * 20_000)),
        said(listed(header=[1])),
        said(listed(header={str(n): "x" for n in range(30)})),
        said(listed(header={"A": "x\r\nHost: evil"})),
        said(listed(header={"A\r\nHost": "x"})),
        said(listed(header={"A": 5})),
        said({"oid": ONE, "actions": {"download": 5}}),
        said({"oid": ONE, "actions": 5}),
        said({"oid": [ONE], "actions": {}}),
        b'{"objects": ' + b"[" * 100_000,
    ],
)
def test_an_answer_that_is_none_is_an_error(raw: bytes) -> None:
    with pytest.raises(GitError):
        lfsapi.answer(raw, {ONE: 1})


@pytest.mark.parametrize(
    ("error", "told"),
    [({"code": 404, "message": "\x1b[31mgone"}, "(it says 404)"), ({"code": "x"}, "aaaa."), ("no", "aaaa.")],
)
def test_what_a_server_does_not_have_is_told_without_its_words(error: object, told: str) -> None:
    with pytest.raises(GitError) as found:
        lfsapi.answer(said({"oid": ONE, "error": error}), {ONE: 1})
    assert told in found.value.message
    assert "\x1b" not in found.value.message


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_an_error_that_can_be_shown(raw: bytes) -> None:
    with pytest.raises(GitError):
        lfsapi.answer(raw, {ONE: 1})


@given(
    st.dictionaries(
        st.text(alphabet="0123456789abcdef", min_size=64, max_size=64), st.integers(0), max_size=250
    )
)
def test_every_object_is_in_one_portion(sizes: dict[str, int]) -> None:
    portions = list(lfsapi.batches(sizes))
    assert all(0 < len(one) <= lfsapi.BATCH for one in portions)
    assert {oid: size for one in portions for oid, size in one.items()} == sizes
    assert sum(map(len, portions)) == len(sizes)
    for one in portions:
        asked = json.loads(lfsapi.request(one))
        assert (asked["operation"], asked["transfers"]) == ("download", ["basic"])
        assert {each["oid"]: each["size"] for each in asked["objects"]} == one


@pytest.mark.parametrize(
    "remote", ["https://h.org/o/r", "https://h.org/o/r.git", "https://h.org/o/r/", "https://h.org/o/r.git/"]
)
def test_a_repositorys_lfs_server_is_found_as_git_lfs_finds_it(remote: str) -> None:
    assert lfsapi.endpoint(remote) == "https://h.org/o/r.git/info/lfs"
