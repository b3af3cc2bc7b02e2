"""The newest card ever seen of each executor: an older one is never believed again, also after a restart."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import apsw

from pushtrain.plumbing.disk.files import replace
from pushtrain.plumbing.sqlite.database import Database


def card_number(path: Path) -> int:
    """The number of the newest card that this machine's executor has written; 0: none."""
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return 0  # its own cards in the rosters tell more


class Cards:
    """Methods of the store that whoever reads rosters uses."""

    _database: Database

    def newest_cards(self) -> dict[str, int]:
        """The highest number seen of each executor's cards, by fingerprint."""
        return self._database.read(
            lambda db: {str(name): int(number) for name, number in db.execute("SELECT * FROM cards")}
        )

    def note_cards(self, newest: Mapping[str, int]) -> None:
        """Note these numbers; none goes back."""

        def work(db: apsw.Connection) -> None:
            db.executemany(
                "INSERT INTO cards VALUES (?, ?) ON CONFLICT DO UPDATE "
                "SET sequence = max(sequence, excluded.sequence)",
                newest.items(),
            )

        self._database.write(work)


class CardNotes:
    """The same in a file of its own, for verbs that must not open the store; with what was read last.

    A file that cannot be read counts as empty: what a card says still needs the executor's key.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def newest_cards(self) -> dict[str, int]:
        """The highest number seen of each executor's cards, by fingerprint."""
        newest = self._load().get("newest", {})
        return {name: number for name, number in newest.items() if isinstance(number, int)}

    def note_cards(self, newest: Mapping[str, int]) -> None:
        """Note these numbers; none goes back."""
        known = self.newest_cards()
        merged = {name: max(number, known.get(name, number)) for name, number in newest.items()}
        self._save({**self._load(), "newest": {**known, **merged}})

    def texts(self) -> dict[str, str]:
        """The rosters as they were read last, by the titles of their places."""
        texts = self._load().get("texts", {})
        return {title: text for title, text in texts.items() if isinstance(text, str)}

    def age(self, title: str, now: float) -> float:
        """Seconds since this roster was read; never: infinite, and so is a time to come."""
        at = self._load().get("times", {}).get(title)
        return now - at if isinstance(at, int | float) and at <= now else math.inf

    def note_texts(self, texts: Mapping[str, str], now: float) -> None:
        """Note what was read just now."""
        known = self._load()
        times = {**known.get("times", {}), **dict.fromkeys(texts, now)}
        self._save({**known, "texts": {**self.texts(), **texts}, "times": times})

    def _load(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        parts = found if isinstance(found, dict) else {}
        return {name: part for name, part in parts.items() if isinstance(part, dict)}

    def _save(self, document: Mapping[str, Any]) -> None:
        replace(self.path, json.dumps(document).encode())
