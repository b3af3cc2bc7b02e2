"""Where a job's data may be fetched from: the public internet, and the hosts that the owner lists.

Nothing of the owner's own network is reached because somebody wrote its address into a job. It is decided
twice: by the host's name before anything is looked up, and by each address that the name led to before
anything is connected. What a listed name leads to is the owner's affair, but for a cloud's metadata
service, which only its own address lists.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final

from pushtrain.core.text.addresses import METADATA, Address, Network, why_not_public
from pushtrain.core.text.forms import Wrong
from pushtrain.core.text.weburl import WebAddress, read

_INSIDE: Final = frozenset(
    {"localhost", "localdomain", "local", "internal", "intranet", "lan", "home", "corp", "mail", "home.arpa"}
)
"""Ends of names that no host of the public internet has: RFC 6761, 6762 and 8375, and names that ICANN will
never give out or keeps for inside (`.internal`)."""
_METADATA: Final = frozenset({"metadata.google.internal", "metadata.goog"})
_WEB: Final = frozenset({80, 443})
_UNPRIVILEGED: Final = 1024
_ENTRY: Final = re.compile(r"(?:\[(?P<six>[^\]]+)\]|(?P<plain>[^\[\]:]+))(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class Listed:
    """One host, or network, that the owner lists."""

    port: int
    """0: the web's own ports, 80 and 443."""
    name: str = ""
    """In lower case; empty: it is a network."""
    network: Network | None = None

    def takes(self, port: int) -> bool:
        """Whether it lists this port."""
        return port == self.port if self.port else port in _WEB


def listed(entry: str) -> Listed:
    """An entry of `allow_data_hosts`: a name, an address or a network, and a port or none.

    `nas.lan:9000`, `10.0.0.5:9000`, `10.0.0.0/24:9000`, `[fd00::5]:9000`, `[fd00::/64]:9000`.

    Raises:
        Wrong: It is none of these.
    """
    found = _ENTRY.fullmatch(entry.strip())
    port = int(found["port"] or 0) if found else 0
    if found and port < 65_536 and (port or not found["port"]):  # noqa: PLR2004  a port has 16 bits
        try:
            network = ip_network(found["six"] or found["plain"])
        except ValueError:
            network = None
        if network is not None and (network.version == 6) == bool(found["six"]):  # noqa: PLR2004  IPv6
            return Listed(port, network=network)
        if network is None and found["plain"] and "/" not in found["plain"]:
            try:
                return Listed(port, name=read(f"http://{found['plain']}/").host)
            except ValueError:
                pass
    raise Wrong(
        "is no host with a port",
        "Write `nas.lan:9000`, `10.0.0.5:9000`, `10.0.0.0/24:9000` or `[fd00::5]:9000`.",
    )


class Outward:
    """The public internet and what the owner lists beside it.

    Args:
        entries: As in `allow_data_hosts`.
    """

    def __init__(self, entries: Iterable[str] = ()) -> None:
        self._listed = tuple(listed(entry) for entry in entries)

    def why_not_ask(self, there: WebAddress) -> str:
        """Why this URL must not be asked, as far as the URL alone tells; empty: nothing speaks against it.

        A name may still lead to an address that must not be reached: `why_not_reach` judges that one.
        """
        if there.literal is not None:
            return self.why_not_reach(there.host, there.port, there.literal)
        if self._names(there.host, there.port):
            return ""
        if there.host in _METADATA:
            return "a cloud's metadata service"
        if "." not in there.host or any(f".{there.host}".endswith(f".{end}") for end in _INSIDE):
            return "a name of a local network"
        return self._why_not_port(there.port)

    def why_not_reach(self, host: str, port: int, address: Address) -> str:
        """Why this address, which `host` led to, must not be connected to; empty: it may be."""
        if self.lists(host, port, address):
            return ""
        kind = why_not_public(address)
        return f"an address that is not public ({kind})" if kind else self._why_not_port(port)

    def lists(self, host: str, port: int, address: Address) -> bool:
        """Whether the owner has listed this host or address, so that it may be one of the owner's own."""
        networks = [one.network for one in self._listed if one.network is not None and one.takes(port)]
        if address in METADATA:
            return any(address in network and network.num_addresses == 1 for network in networks)
        return self._names(host, port) or any(address in network for network in networks)

    def _names(self, host: str, port: int) -> bool:
        return any(one.name == host and one.takes(port) for one in self._listed if one.name)

    @staticmethod
    def _why_not_port(port: int) -> str:
        """Mail, shells and printers are not asked for data, wherever they are."""
        return f"port {port}, which is not the web's" if port < _UNPRIVILEGED and port not in _WEB else ""
