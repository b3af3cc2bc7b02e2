from ipaddress import ip_address

import pytest

from pushtrain.core.owner.outward import Outward, listed
from pushtrain.core.text.weburl import read


def ask(url: str, *entries: str) -> str:
    return Outward(entries).why_not_ask(read(url))


def reach(host: str, port: int, address: str, *entries: str) -> str:
    return Outward(entries).why_not_reach(host, port, ip_address(address))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://example.org/", ""),
        ("http://example.org:8080/", ""),
        ("https://93.184.216.34/", ""),
        ("http://127.0.0.1/", "loopback"),
        ("http://[::1]/", "loopback"),
        ("http://[::ffff:127.0.0.1]/", "IPv4-mapped"),
        ("http://169.254.169.254/latest/meta-data/", "metadata"),
        ("http://metadata.google.internal/", "metadata"),
        ("http://METADATA.google.INTERNAL/", "metadata"),
        ("http://metadata.goog/", "metadata"),
        ("http://[fd00:ec2::254]/", "metadata"),
        ("http://100.100.100.200/", "metadata"),
        ("http://localhost/", "local network"),
        ("http://a.localhost/", "local network"),
        ("http://router/", "local network"),
        ("http://nas.local/", "local network"),
        ("http://nas.lan/", "local network"),
        ("http://fritz.home.arpa/", "local network"),
        ("http://db.internal/", "local network"),
        ("http://example.org:25/", "port 25"),
        ("http://example.org:22/", "port 22"),
        ("http://93.184.216.34:110/", "port 110"),
    ],
)
def test_urls_are_judged_by_themselves(url: str, why: str) -> None:
    assert why in ask(url)
    assert bool(why) == bool(ask(url))


def test_listed_hosts_may_be_asked_on_their_ports_only() -> None:
    assert not ask("http://nas.lan:9000/", "nas.lan:9000")
    assert not ask("http://NAS.lan:9000/", "Nas.LAN:9000")
    assert ask("http://nas.lan:9001/", "nas.lan:9000")
    assert ask("http://other.lan:9000/", "nas.lan:9000")
    assert not ask("https://nas.lan/", "nas.lan")
    assert not ask("http://nas.lan/", "nas.lan")
    assert ask("http://nas.lan:9000/", "nas.lan")
    assert not ask("http://10.0.0.5:22/", "10.0.0.0/24:22")
    assert ask("http://10.0.1.5:22/", "10.0.0.0/24:22")
    assert not ask("http://[fd00::5]:9000/", "[fd00::/64]:9000")
    assert ask("http://127.0.0.1:9000/", "localhost:9000")


def test_what_a_name_led_to_is_judged_address_by_address() -> None:
    assert not reach("example.org", 443, "93.184.216.34")
    assert "private" in reach("example.org", 443, "10.0.0.5")
    assert not reach("nas.lan", 9000, "10.0.0.5", "nas.lan:9000")
    assert reach("nas.lan", 9001, "10.0.0.5", "nas.lan:9000")
    assert not reach("anything.example", 9000, "10.0.0.5", "10.0.0.0/8:9000")
    assert "port 25" in reach("example.org", 25, "93.184.216.34")


def test_no_name_and_no_network_lists_a_metadata_service() -> None:
    for address in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200"):
        family = "::/0" if ":" in address else "0.0.0.0/0"
        brackets = f"[{family}]" if ":" in family else family
        assert "metadata" in reach("evil.example", 80, address, "evil.example", brackets)
        literal = f"[{address}]" if ":" in address else address
        assert not reach("evil.example", 80, address, f"{literal}:80"), "its own address does"


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "fd00::5",
        "10.0.0.1/24",
        "a:0",
        "a:99999",
        "a:b",
        "a/b:1",
        "127.1:80",
        "*:80",
        "[nas]:80",
        "[10.0.0.1]:80",
    ],
)
def test_entries_that_are_none_are_errors(entry: str) -> None:
    with pytest.raises(ValueError, match="is no host with a port"):
        listed(entry)
