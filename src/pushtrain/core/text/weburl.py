"""An http(s) URL read in one way only: what two parsers could take for two different hosts is refused.

A guard that reads a URL otherwise than the client behind it guards nothing. So a host is a name in
letters, digits, hyphens and underscores, or an address in its one canonical spelling; there is no user,
no escape, no backslash, no control character and nothing beyond ASCII in it. Spellings of an address
(`127.1`, `0x7f.1`, `2130706433`, `0177.0.0.1`) are not decoded, they are refused: a name that ends in a
number is none (WHATWG URL, "ends in a number").
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final
from urllib.parse import urlsplit

from pushtrain.core.text.addresses import Address

PORTS: Final = {"http": 80, "https": 443}

_CLEAN: Final = re.compile(r"[!-\[\]-~]+")
"""Visible ASCII without the backslash."""
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_LONGEST: Final = 253


@dataclass(frozen=True, slots=True)
class WebAddress:
    """Where an http(s) URL leads."""

    scheme: str
    host: str
    """In lower case; an IPv6 address without its brackets."""
    port: int
    literal: Address | None = None
    """The address, where the host is one."""


def read(url: str) -> WebAddress:
    """Where this URL leads.

    Raises:
        ValueError: It is no http(s) URL, or could be read in two ways; the message, without it, says why.
    """
    if not _CLEAN.fullmatch(url):
        raise ValueError("holds a space, a backslash, or a character that is not plain ASCII")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.scheme not in PORTS or not parts.hostname:
        raise ValueError("is not an http(s) URL")
    if "@" in parts.netloc:
        raise ValueError("carries a user name or a password")
    host, literal = parts.hostname.lower(), _literal(parts.netloc)
    if literal is None:
        _check_name(host)
    if port == 0:
        raise ValueError("names port 0")
    return WebAddress(parts.scheme, host, port or PORTS[parts.scheme], literal)


def shown(url: str) -> str:
    """A URL as it may be shown: without its query, which often is a signature, and without a user's name.

    Never fails, whatever the text is.
    """
    bare = re.split(r"[?#]", url, maxsplit=1)[0]
    scheme, mark, rest = bare.partition("://")
    if not mark:
        return bare
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def _literal(netloc: str) -> Address | None:
    """The address that stands where the host does, in canonical spelling only.

    Raises:
        ValueError: Brackets without a plain IPv6 address in them.
    """
    if not netloc.startswith("["):
        try:
            return IPv4Address(netloc.partition(":")[0])
        except ValueError:
            return None
    inner, _, rest = netloc[1:].partition("]")
    if rest and not rest.startswith(":"):
        raise ValueError("is not a URL")
    try:
        found = IPv6Address(inner)
    except ValueError:
        raise ValueError("has a host that is no address") from None
    if found.scope_id is not None:
        raise ValueError("has an address with a zone")
    return found


def _check_name(host: str) -> None:
    if not _NAME.fullmatch(host) or len(host) > _LONGEST:
        raise ValueError("has a host that is no plain name")
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        raise ValueError("has a host that ends in a number and is no plain address")
