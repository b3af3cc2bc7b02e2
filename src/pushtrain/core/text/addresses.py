"""Which addresses are on the public internet, told by a table of our own.

The table is IANA's: the IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890 and its successors),
the multicast blocks, and for IPv6 the one block that global unicast addresses are given out from.
Python's own `ipaddress.is_global` changed its mind between versions (3.11.10, 3.12.4) and knows no
translators; a guard that depends on the interpreter's patch level is none. What is not known to be public
is not public.

An address that only wraps another one is refused, public or not: IPv4-mapped, 6to4, Teredo, relays. The
one exception is NAT64's well-known prefix, which IPv6-only networks reach all of IPv4 by: it is what it
wraps.

Sources: https://www.iana.org/assignments/iana-ipv4-special-registry,
https://www.iana.org/assignments/iana-ipv6-special-registry, RFC 6052 (NAT64), and the vendors' pages on
their metadata services.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_BLOCKS: Final = {
    # --- IPv4
    "0.0.0.0/8": "this machine",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "carrier-grade NAT",
    "127.0.0.0/8": "loopback",
    "169.254.0.0/16": "link-local",
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "reserved for protocols",
    "192.0.2.0/24": "documentation",
    "192.31.196.0/24": "AS112",
    "192.52.193.0/24": "multicast tunnels",
    "192.88.99.0/24": "6to4 relay",
    "192.168.0.0/16": "private",
    "192.175.48.0/24": "AS112",
    "198.18.0.0/15": "benchmarking",
    "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",
    # --- IPv6, outside global unicast
    "::/128": "this machine",
    "::1/128": "loopback",
    "::ffff:0:0/96": "IPv4-mapped",
    "::ffff:0:0:0/96": "IPv4-translated",
    "::/96": "IPv4-compatible",
    "64:ff9b:1::/48": "local NAT64",
    "100::/64": "discard-only",
    "100:0:0:1::/64": "dummy",
    "5f00::/16": "segment routing",
    "fc00::/7": "private",
    "fe80::/10": "link-local",
    "fec0::/10": "site-local",
    "ff00::/8": "multicast",
    # --- IPv6, within global unicast
    "2001::/32": "Teredo",
    "2001::/23": "reserved for protocols",
    "2001:db8::/32": "documentation",
    "2002::/16": "6to4",
    "2620:4f:8000::/48": "AS112",
    "3fff::/20": "documentation",
}
NOT_PUBLIC: Final[tuple[tuple[Network, str], ...]] = tuple(
    (ip_network(block), kind) for block, kind in _BLOCKS.items()
)
"""Blocks that are not the public internet, each with its kind; the first that fits names it."""

GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
"""The only IPv6 addresses that are given out (RFC 4291, 2.4); all others are not public, listed or not."""
NAT64: Final = IPv6Network("64:ff9b::/96")

METADATA: Final[frozenset[Address]] = frozenset(
    {
        IPv4Address("169.254.169.254"),  # most clouds
        IPv4Address("169.254.170.2"),  # Amazon ECS
        IPv4Address("169.254.170.23"),  # Amazon EKS
        IPv4Address("100.100.100.200"),  # Alibaba
        IPv4Address("168.63.129.16"),  # Azure's host; a public address by its number
        IPv4Address("192.0.0.192"),  # Oracle, formerly
        IPv6Address("fd00:ec2::254"),  # Amazon
        IPv6Address("fd00:ec2::23"),  # Amazon EKS
        IPv6Address("fd20:ce::254"),  # Google
    }
)
"""Where clouds hand their machines' credentials to whoever asks from inside."""


def why_not_public(address: Address) -> str:
    """What kind of address this is, if it is not one of the public internet; empty if it is one."""
    if isinstance(address, IPv6Address):
        if address.scope_id:
            return "link-local"
        if address in NAT64:
            inner = why_not_public(wrapped(address))
            return f"{inner}, by NAT64" if inner else ""
    if address in METADATA:
        return "a cloud's metadata service"
    for network, kind in NOT_PUBLIC:
        if address in network:  # an address is in no network of the other version
            return kind
    if isinstance(address, IPv6Address) and address not in GLOBAL_UNICAST:
        return "reserved"
    return ""


def wrapped(address: IPv6Address) -> IPv4Address:
    """The IPv4 address in the last 32 bits, where NAT64's well-known prefix has it."""
    return IPv4Address(int(address) & 0xFFFF_FFFF)
