"""Git hosts: what a push looks like when it arrives as a webhook."""

from typing import Final

HOSTS: Final = {"github": "pushtrain.adapters.hosts.github:GitHub"}
"""Name → where it stands; `wiring` imports it when used."""
