from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.text.addresses import METADATA, NAT64, NOT_PUBLIC, why_not_public

PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "93.184.216.34",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2a00:1450:4001:81b::200e",
    "2001:4860:4860::8888",
    "64:ff9b::8.8.8.8",
]
NONE = {
    "0.0.0.0": "this machine",  # noqa: S104  an address to refuse
    "0.1.2.3": "this machine",
    "10.255.255.255": "private",
    "100.64.0.1": "carrier-grade NAT",
    "100.127.255.255": "carrier-grade NAT",
    "100.100.100.200": "a cloud's metadata service",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "168.63.129.16": "a cloud's metadata service",
    "169.254.0.1": "link-local",
    "169.254.169.254": "a cloud's metadata service",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.0.0.9": "reserved for protocols",
    "192.0.2.1": "documentation",
    "192.88.99.1": "6to4 relay",
    "192.168.1.1": "private",
    "198.18.0.1": "benchmarking",
    "198.51.100.7": "documentation",
    "203.0.113.7": "documentation",
    "224.0.0.1": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    "::": "this machine",
    "::1": "loopback",
    "::ffff:127.0.0.1": "IPv4-mapped",
    "::ffff:8.8.8.8": "IPv4-mapped",
    "::ffff:0:127.0.0.1": "IPv4-translated",
    "::127.0.0.1": "IPv4-compatible",
    "64:ff9b::127.0.0.1": "loopback, by NAT64",
    "64:ff9b::a9fe:a9fe": "a cloud's metadata service, by NAT64",
    "64:ff9b::192.168.0.1": "private, by NAT64",
    "64:ff9b:1::8.8.8.8": "local NAT64",
    "100::1": "discard-only",
    "2001::1": "Teredo",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2": "Teredo",
    "2001:2::1": "reserved for protocols",
    "2001:db8::1": "documentation",
    "2002:7f00:1::": "6to4",
    "2002:808:808::1": "6to4",
    "3fff::1": "documentation",
    "4000::1": "reserved",
    "5f00::1": "segment routing",
    "fd00:ec2::254": "a cloud's metadata service",
    "fd20:ce::254": "a cloud's metadata service",
    "fd12:3456::1": "private",
    "fc00::1": "private",
    "fe80::1": "link-local",
    "fe80::1%eth0": "link-local",
    "2606:4700::1%1": "link-local",
    "fec0::1": "site-local",
    "ff02::1": "multicast",
    "ff0e::1": "multicast",
}


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are_public(text: str) -> None:
    assert not why_not_public(ip_address(text))


@pytest.mark.parametrize(("text", "kind"), NONE.items())
def test_addresses_that_are_not_public_are_told_by_their_kind(text: str, kind: str) -> None:
    assert why_not_public(ip_address(text)) == kind


@given(st.ip_addresses())
def test_nothing_is_public_that_python_knows_not_to_be(address: IPv4Address | IPv6Address) -> None:
    if not why_not_public(address):
        assert address.is_global
        assert not address.is_private
        assert not address.is_multicast
        assert not address.is_reserved or address in NAT64


@given(st.ip_addresses(v=4) | st.integers(0x2000, 0x3FFF).map(lambda top: IPv6Address((top << 112) | 1)))
def test_what_python_knows_to_be_global_is_refused_for_a_named_reason_only(
    address: IPv4Address | IPv6Address,
) -> None:
    if address.is_global and not address.is_multicast:
        listed = any(address in network for network, _ in NOT_PUBLIC) or address in METADATA
        assert bool(why_not_public(address)) == listed


@given(st.sampled_from(NOT_PUBLIC), st.data())
def test_both_ends_and_all_between_of_each_block_are_refused(
    block: tuple[object, str], data: st.DataObject
) -> None:
    network = block[0]
    for address in (network[0], network[-1], data.draw(st.ip_addresses(network=network))):  # type: ignore[index, arg-type]
        assert why_not_public(address)
