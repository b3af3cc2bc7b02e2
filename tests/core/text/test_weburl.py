import contextlib
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

import pytest
import urllib3
from hypothesis import example, given
from hypothesis import strategies as st

from pushtrain.core.text.weburl import WebAddress, read, shown


def test_plain_urls_are_read() -> None:
    assert read("https://Example.org/a?b#c") == WebAddress("https", "example.org", 443)
    assert read("http://example.org:8080") == WebAddress("http", "example.org", 8080)
    assert read("http://93.184.216.34/") == WebAddress(
        "http", "93.184.216.34", 80, IPv4Address("93.184.216.34")
    )
    assert read("http://[2606:4700::1]:81/").literal == IPv6Address("2606:4700::1")
    assert read("https://xn--bcher-kva.example/").host == "xn--bcher-kva.example"
    assert read("https://my_bucket.s3.example/").host == "my_bucket.s3.example"


SPELLINGS = [
    "127.1",
    "127.0.1",
    "2130706433",
    "017700000001",
    "0177.0.0.1",
    "0x7f000001",
    "0x7f.0.0.1",
    "0x7f.1",
    "127.0.0.0x1",
    "0",
    "00000000.0",
    "127.0.0.1.",
    "127.0.0.01",
    "localhost.",
    "good@127.0.0.1",
    "good:word@127.0.0.1",
    "good%40127.0.0.1",
    "@127.0.0.1",
    "127.0.0.1\\@good",
    "good\\@127.0.0.1",
    "127.0.0.1%00.good",
    "%31%32%37.0.0.1",
    "127.0.0.1\t",
    "\t127.0.0.1",
    "127\n.0.0.1",
    "127.0.0.1\r\nHost: good",
    "\uff11\uff12\uff17.0.0.1",
    "\u2460\u2461\u2466.0.0.1",
    "127\u30020\u30020\u30021",
    "127\uff0e0\uff0e0\uff0e1",
    "loc\u00adalhost",
    "\u0131nside.example",
    "[::1%25lo]",
    "[::1%lo]",
    "[fe80::1%25eth0]",
    "[::1",
    "::1",
    "[127.0.0.1]",
    "[v1.127.0.0.1]",
    "[::1].good",
    "[::1]good",
    "127.0.0.1:80:80",
    "a..b",
    ".a",
    "-a.example",
    "a" * 64 + ".example",
    "a." * 130 + "example",
    "*",
    "a b",
    "a,b",
    "a:0",
    "a:99999",
    "a:-1",
    "a:+80",
    "a:8_0",
    "a:\u0661",
    "",
]


@pytest.mark.parametrize("authority", SPELLINGS)
def test_hosts_in_any_but_their_one_spelling_are_refused(authority: str) -> None:
    for scheme in ("http", "https"):
        with pytest.raises(ValueError, match=r"^(is|has|holds|carries|names) "):
            read(f"{scheme}://{authority}/x")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "//example.org/",
        "file:///etc/passwd",
        "ftp://example.org/",
        "gopher://example.org/",
        "httpx://example.org/",
        "http:example.org",
        "http:/example.org/",
        "http:///example.org/",
        " http://example.org/",
        "http://example.org/a b",
        "http://example.org/a\\b",
        "javascript:alert(1)",
    ],
)
def test_what_is_no_web_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|holds) "):
        read(url)


PARTS = st.integers(0, 2**32 - 1).flatmap(
    lambda number: st.sampled_from(
        [
            [number],
            [number >> 24, number & 0xFFFFFF],
            [number >> 24, number >> 16 & 0xFF, number & 0xFFFF],
            [number >> shift & 0xFF for shift in (24, 16, 8, 0)],
        ]
    )
)
FORMS = st.sampled_from(["{}", "0x{:x}", "0X{:X}", "0{:o}", "00{:o}", "0x0{:x}"])


@st.composite
def numeric(draw: st.DrawFn) -> str:
    """An IPv4 address in any form that C's inet_aton takes."""
    return ".".join(draw(FORMS).format(part) for part in draw(PARTS)) + draw(st.sampled_from(["", "", "."]))


@given(numeric())
def test_whatever_a_resolver_takes_for_an_address_is_that_address_or_refused(host: str) -> None:
    with contextlib.suppress(ValueError):
        found = read(f"http://{host}/")
        assert found.literal is not None, "or else the resolver would decide"
        assert str(found.literal) == host == socket.inet_ntoa(socket.inet_aton(host))


AWKWARD = st.text(st.sampled_from("ab1.:@/\\[]%?#0x7f-_ \t\n\r\0\uff11\u3002\u00e9"), max_size=14)


@given(AWKWARD | st.text(max_size=12))
@example("a:80#@b")
@example("good:80@host.example")
@example("a?@b")
@example("[::ffff:7f00:1]")
def test_two_parsers_agree_on_every_url_that_is_taken(authority: str) -> None:
    url = f"http://{authority}/path"
    try:
        found = read(url)
    except ValueError:
        return
    theirs = urllib3.util.parse_url(url)
    assert (theirs.host or "").strip("[]").lower() == found.host == urlsplit(url).hostname
    assert (theirs.port or 80) == found.port
    assert theirs.auth is None
    with contextlib.suppress(ValueError):
        assert ip_address(found.host) == found.literal


@given(st.text())
def test_shown_urls_hold_no_query_and_no_user_whatever_they_are(secret: str) -> None:
    for url in (
        f"https://host/path?X-Amz-Signature={secret}",
        f"https://host/path#{secret}",
        f"http://[?{secret}",
    ):
        assert shown(url) in {"https://host/path", "http://["}
    user = secret.replace("/", "").replace("?", "").replace("#", "")
    assert shown(f"https://{user}@host/path") == "https://host/path"
    shown(secret)
