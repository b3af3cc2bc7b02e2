"""Reading git's own conversation, without git."""

from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.values.push import NO_COMMIT
from pushtrain.demo.webhook import Update, pushed, signature

OLD, NEW = "1" * 40, "2" * 40


def _line(text: bytes) -> bytes:
    return f"{len(text) + 4:04x}".encode() + text


def _request(*updates: Update) -> bytes:
    lines = [f"{u.before} {u.after} {u.ref}".encode() for u in updates]
    if lines:
        lines[0] += b"\0 report-status side-band-64k agent=git/2"
    return b"".join(map(_line, lines)) + b"0000PACK..."


def _answer(*lines: bytes, banded: bool) -> bytes:
    plain = b"".join(map(_line, (b"unpack ok\n", *lines))) + b"0000"
    if not banded:
        return plain
    return _line(b"\x02Resolving deltas\n") + _line(b"\x01" + plain) + b"0000"


REFS = st.from_regex(r"refs/heads/[a-z0-9/._-]{1,30}", fullmatch=True)
UPDATES = st.lists(
    st.builds(Update, REFS, st.sampled_from([OLD, NO_COMMIT]), st.sampled_from([NEW, NO_COMMIT])),
    unique_by=lambda update: update.ref,
    max_size=6,
)


@given(UPDATES, st.data(), st.booleans())
def test_exactly_the_confirmed_updates_are_told(
    updates: list[Update], data: st.DataObject, banded: bool
) -> None:
    confirmed = [update for update in updates if data.draw(st.booleans())]
    lines = [
        f"ok {u.ref}\n".encode() if u in confirmed else f"ng {u.ref} non-fast-forward\n".encode()
        for u in updates
    ]
    assert pushed(_request(*updates), _answer(*lines, banded=banded)) == tuple(confirmed)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_noise_is_never_an_update(request: bytes, answer: bytes) -> None:
    assert pushed(request, answer) == ()


def test_an_answer_that_ends_in_the_middle_confirms_nothing() -> None:
    update = Update("refs/heads/main", OLD, NEW)
    whole = _answer(b"ok refs/heads/main\n", banded=False)
    assert pushed(_request(update), whole) == (update,)
    assert pushed(_request(update), whole[:-10]) == ()


def test_the_signature_is_the_one_that_github_documents() -> None:
    # https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries#testing-the-webhook-payload-validation
    told = signature(b"It's a Secret to Everybody", b"Hello, World!")
    assert told == "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
