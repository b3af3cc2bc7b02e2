"""Heads of requests: what is read, and that nothing is read which somebody else could read otherwise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.text.heads import MAX_FIELDS, fault

PLAIN = b"POST /v1/runs?a=%2F..&b=// HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"


@pytest.mark.parametrize(
    "head",
    [
        PLAIN,
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET /v1/runs/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /a..b/.c/...%20%C3%BC HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost:x\r\nX-Empty:\r\nX-Blanks: \t a b \t\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
        b"OPTIONS /a HTTP/1.1\r\nHost: x\r\nX-Latin: \xe4\r\n\r\n",
        b"GET /a HTTP/1.1\r\n" + b"X: y\r\n" * MAX_FIELDS + b"\r\n",
    ],
)
def test_a_plain_head_is_read(head: bytes) -> None:
    assert fault(head) == ""


AMBIGUOUS = {
    "both lengths": b"POST /a HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    "two lengths": b"POST /a HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
    "two lengths in one": b"POST /a HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\n",
    "a length with a sign": b"POST /a HTTP/1.1\r\nContent-Length: +5\r\n\r\n",
    "a length with an underscore": b"POST /a HTTP/1.1\r\nContent-Length: 1_0\r\n\r\n",
    "a negative length": b"POST /a HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "a length in hexadecimal": b"POST /a HTTP/1.1\r\nContent-Length: 0x10\r\n\r\n",
    "a length without a number": b"POST /a HTTP/1.1\r\nContent-Length:\r\n\r\n",
    "a length of many digits": b"POST /a HTTP/1.1\r\nContent-Length: " + b"1" * 5000 + b"\r\n\r\n",
    "two codings": b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a coding of two": b"POST /a HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "identity": b"POST /a HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n",
    "a coding with a vertical tab": b"POST /a HTTP/1.1\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
    "chunks in HTTP/1.0": b"POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a blank before the colon": b"POST /a HTTP/1.1\r\nContent-Length : 3\r\n\r\n",
    "a folded line": b"POST /a HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
    "a folded length": b"POST /a HTTP/1.1\r\nContent-Length:\r\n 3\r\n\r\n",
    "a folded first line": b"POST /a HTTP/1.1\r\n X: a\r\n\r\n",
    "bare line feeds": b"GET /a HTTP/1.1\nHost: x\n\n",
    "one bare line feed": b"GET /a HTTP/1.1\r\nX: a\nContent-Length: 3\r\n\r\n",
    "a bare carriage return": b"GET /a HTTP/1.1\r\nX: a\rContent-Length: 3\r\n\r\n",
    "a null": b"GET /a HTTP/1.1\r\nX: a\0b\r\n\r\n",
    "an empty first line": b"\r\nGET /a HTTP/1.1\r\n\r\n",
    "a name without a colon": b"GET /a HTTP/1.1\r\nHost\r\n\r\n",
    "an empty name": b"GET /a HTTP/1.1\r\n: x\r\n\r\n",
    "too many fields": b"GET /a HTTP/1.1\r\n" + b"X: y\r\n" * (MAX_FIELDS + 1) + b"\r\n",
    "absolute form": b"GET http://evil.example/a HTTP/1.1\r\n\r\n",
    "authority form": b"CONNECT evil.example:443 HTTP/1.1\r\n\r\n",
    "asterisk form": b"OPTIONS * HTTP/1.1\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /a\r\n\r\n",
    "HTTP/1.2": b"GET /a HTTP/1.2\r\n\r\n",
    "two blanks": b"GET  /a HTTP/1.1\r\n\r\n",
    "a tab": b"GET\t/a HTTP/1.1\r\n\r\n",
    "a target with a blank": b"GET /a b HTTP/1.1\r\n\r\n",
    "a target that is not ASCII": b"GET /\xe4 HTTP/1.1\r\n\r\n",
    "a method in small letters": b"get /a HTTP/1.1\r\n\r\n",
    "a method of anything": b"G<T /a HTTP/1.1\r\n\r\n",
    "a parent": b"GET /v1/../admin HTTP/1.1\r\n\r\n",
    "a parent at the end": b"GET /v1/.. HTTP/1.1\r\n\r\n",
    "an escaped parent": b"GET /v1/%2e%2E/admin HTTP/1.1\r\n\r\n",
    "a half escaped parent": b"GET /v1/.%2e/admin HTTP/1.1\r\n\r\n",
    "itself": b"GET /v1/./runs HTTP/1.1\r\n\r\n",
    "an empty segment": b"GET /v1//runs HTTP/1.1\r\n\r\n",
    "an empty first segment": b"GET //evil.example/ HTTP/1.1\r\n\r\n",
    "an escaped slash": b"GET /v1%2fruns HTTP/1.1\r\n\r\n",
    "an escaped backslash": b"GET /v1/%5Cruns HTTP/1.1\r\n\r\n",
    "a backslash": b"GET /v1\\runs HTTP/1.1\r\n\r\n",
    "an escaped null": b"GET /v1/a%00 HTTP/1.1\r\n\r\n",
    "an escaped line feed": b"GET /v1/a%0d%0aX: HTTP/1.1\r\n\r\n",
    "a fragment": b"GET /v1/runs#x HTTP/1.1\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_two_readers_could_read_in_two_ways_is_refused(name: str) -> None:
    assert fault(AMBIGUOUS[name]) != ""


@given(st.binary(max_size=200))
def test_noise_is_refused_and_breaks_nothing(noise: bytes) -> None:
    assert fault(noise) != "" or noise.startswith(b"GET ")


@given(at=st.integers(0, len(PLAIN) - 8), noise=st.binary(min_size=1, max_size=4))
def test_what_passes_has_only_lines_that_end_as_they_should(at: int, noise: bytes) -> None:
    changed = PLAIN[:at] + noise + PLAIN[at:]
    if fault(changed) == "":
        head = changed.partition(b"\r\n\r\n")[0]
        assert head.count(b"\r") == head.count(b"\n") == head.count(b"\r\n")
