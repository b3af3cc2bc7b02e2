"""Where the authtoken for ngrok is kept: `NGROK_AUTHTOKEN`, ngrok's own file, or the keyring.

The token is read when it is needed and goes nowhere but to ngrok's SDK: not into argv, a log, an error or a
job.
"""

import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

VARIABLE: Final = "NGROK_AUTHTOKEN"
_ENTRY: Final = re.compile(r"""(?P<indent> *)(?P<key>[A-Za-z_]+):\s*(?P<value>"[^"]*"|'[^']*'|[^\s#]*)""")


@dataclass(frozen=True, slots=True)
class Found:
    """An authtoken, and where it was."""

    token: str = field(repr=False)
    where: str
    """For people."""


def find(
    environ: Mapping[str, str] = os.environ, *, home: Path | None = None, ask_keyring: bool = True
) -> Found | None:
    """The authtoken, from the first place that has one.

    Args:
        environ: Where `NGROK_AUTHTOKEN` and `XDG_CONFIG_HOME` are looked up.
        home: The user's home folder.
        ask_keyring: Whether to look into the keyring, too, which may make a desktop ask for its password.
    """
    if token := environ.get(VARIABLE, "").strip():
        return Found(token, VARIABLE)
    home = home or Path.home()
    settled = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    for path in dict.fromkeys((settled / "ngrok", home / ".config/ngrok", home / ".ngrok2")):
        file = path / "ngrok.yml"
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if token := in_file(text):
            return Found(token, str(file))
    if ask_keyring and (token := _in_keyring()):
        return Found(token, "the keyring")
    return None


def in_file(text: str) -> str:
    """The authtoken in an ngrok.yml, or nothing.

    Version 2 has it at the top, version 3 below `agent:`; both as ngrok's own commands write them, which
    needs no YAML library. https://ngrok.com/docs/agent/config/
    """
    section = ""
    for line in text.splitlines():
        entry = _ENTRY.match(line)
        if entry is None:
            continue
        value = entry["value"].strip("\"'")
        if not entry["indent"]:
            section = entry["key"]
        if entry["key"] == "authtoken" and (not entry["indent"] or section == "agent"):
            return value
    return ""


def _in_keyring() -> str:
    """What `keyring set ngrok authtoken` has kept, where that optional library is installed and works."""
    try:
        keyring = importlib.import_module("keyring")
    except ImportError:
        return ""
    try:
        return keyring.get_password("ngrok", "authtoken") or ""
    except keyring.errors.KeyringError:
        return ""
