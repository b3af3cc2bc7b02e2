"""Keep a job's secrets out of what it leaves: clean text files, withhold others, hide names and numbers.

A text file (one without a NUL, of a bounded size) is published with `*` in the place of each secret, and the
report tells in how many places. Any other file with a secret in it is not published, not uploaded and not
served, since changing it could break it unseen: it is put aside for the executor's owner. Whoever was cut
short goes on where it stopped: what is clean stays clean, what is aside stays there.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from pushtrain.core.text.redact import Mask
from pushtrain.core.values.run import Artifact
from pushtrain.executor.results.metrics import Metric

MOST_CLEANED: Final = 64 * 1024 * 1024
"""Bytes of a text file that is cleaned; a larger one is put aside."""
_STEP: Final = 4 * 1024 * 1024
_NUMBER: Final = re.compile(r"[0-9]{4}")


class Censor:
    """Takes the secrets out of the result files of one attempt.

    Args:
        mask: What to hide.
        aside: Folder for files that cannot be published; beside that of the results, on the same disk.
    """

    def __init__(self, mask: Mask, aside: Path) -> None:
        self._mask = mask
        self._aside = aside
        self._why: dict[str, str] = {}
        self._hidden: dict[str, int] = {}

    def clean(self, file: Path, name: str) -> None:
        """Clean a file that is ours, or put it aside.

        Args:
            file: Where it is.
            name: Its path among the results.

        Raises:
            OSError: The disk is full or broken; the file is as it was.
        """
        shown = self._mask.text(name)
        if self._mask.everything:
            self._put_aside(file, shown, "it cannot be told any more whether it holds a secret")
        elif shown != name:
            self._put_aside(file, shown, "its name holds a secret")
        else:
            self._content(file, name)

    def told(self, files: Sequence[Artifact]) -> tuple[Artifact, ...]:
        """The collected files, with what was hidden in them, and those that were put aside."""
        kept = [
            file.model_copy(
                update={
                    "path": self._mask.text(file.path),
                    "why": self._mask.text(file.why),
                    "hidden": self._hidden.get(file.path, 0),
                }
            )
            for file in files
        ]
        refused = [
            Artifact(
                path=name, size=0, sha256="", where="refused", why=self._why.get(name, "it holds a secret")
            )
            for name in sorted(_below(self._aside))
        ]
        return (*kept, *refused)

    def _content(self, file: Path, name: str) -> None:
        found: dict[str, None] = {}
        text, places = True, 0
        with file.open("rb") as reading:
            size = os.fstat(reading.fileno()).st_size
            for raw, before, piece in _pieces(reading, size, self._mask.reach):
                spans = self._mask.spans(raw)
                if spans:
                    found |= dict.fromkeys(self._mask.found(raw))
                places += sum(before <= start < before + piece for start, _ in spans)
                text = text and b"\0" not in raw
        if not found:
            return
        if not text or size > MOST_CLEANED:
            names = ", ".join(found)
            self._put_aside(
                file, name, f"it holds the value of {names}; leave that out of what the job saves"
            )
            return
        fresh = self._aside.with_name(f".{self._aside.name}.partial")  # where no result has a name
        with file.open("rb") as reading, fresh.open("wb") as writing:
            for raw, before, piece in _pieces(reading, size, self._mask.reach):
                writing.write(self._mask.within(raw, before, before + piece))
        fresh.chmod(0o600)
        fresh.replace(file)
        self._hidden[name] = places

    def _put_aside(self, file: Path, name: str, why: str) -> None:
        target = self._aside / name
        number = 1
        while target.exists():
            number += 1
            target = self._aside / f"{name} ({number})"
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)
        self._why[str(target.relative_to(self._aside))] = why


def without_secrets(metrics: Sequence[Metric], mask: Mask) -> tuple[Metric, ...]:
    """The metrics with secrets hidden in their names, and numbers left out that spell one."""
    if not mask:
        return tuple(metrics)
    return tuple(
        metric.model_copy(
            update={
                "name": mask.text(metric.name),
                "values": tuple(None if _spells(value, mask) else value for value in metric.values),
                "steps": tuple(
                    float(at) if _spells(step, mask) else step for at, step in enumerate(metric.steps)
                ),
            }
        )
        for metric in metrics
    )


def _spells(value: float | None, mask: Mask) -> bool:
    if value is None:
        return False
    texts = {repr(value), f"{value:.0f}" if abs(value) < 1e300 else ""}  # noqa: PLR2004  no thousand digits
    return any(_NUMBER.search(text) and mask.text(text) != text for text in texts)


def _pieces(file: BinaryIO, size: int, reach: int) -> Iterator[tuple[bytes, int, int]]:
    """A file in pieces with what is around: the bytes, where the piece begins in them, and its length."""
    for at in range(0, size, _STEP):
        low = max(0, at - reach)
        file.seek(low)
        yield file.read(min(at + _STEP, size) + reach - low), at - low, min(_STEP, size - at)


def _below(folder: Path) -> Iterator[str]:
    for root, _, files in os.walk(folder):
        for name in files:
            yield str((Path(root) / name).relative_to(folder))
