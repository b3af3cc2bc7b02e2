"""What may reach a person's terminal: text of jobs, repositories and other machines steers nothing there.

A terminal obeys what it is shown: sequences move the cursor, retitle the window, write to the clipboard,
answer as if the reader had typed. Of a log only colours, erasing to the end of a line, carriage return,
backspace and tab come through; of everything else not even those. Where output is no terminal, a log comes as
it is.
"""

import codecs
import re
from typing import Final

_SEQUENCE: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[PX^_][^\x1b]*\x1b\\|[ -/]*[0-OQ-WYZ`-~])"
)
"""ECMA-48: control sequences, strings with their end, and short escapes."""
_BEGUN: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]*\x1b?|[PX^_][^\x1b]*\x1b?|[ -/]*)\Z")
_HARMLESS: Final = re.compile(r"\x1b\[(?:[0-9;:]{0,40}m|[0-2]?K)")
_CONTROL: Final = re.compile(r"[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]|\x1b")
_ANY: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MARK: Final = "\ufffd"
_LONGEST: Final = 4096
"""Characters of a sequence that has not ended; what is longer is none."""


def clean(text: str) -> str:
    """Text that a terminal only shows; line breaks and tabs stay."""
    return _ANY.sub(_MARK, text)


class LogFilter:
    """A log on its way to a terminal, piece by piece."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._coloured = False

    def feed(self, piece: bytes) -> str:
        """What of the log so far may be shown now."""
        text = self._rest + self._decoder.decode(piece)
        begun = _BEGUN.search(text)
        self._rest = text[begun.start() :] if begun and len(text) - begun.start() <= _LONGEST else ""
        return self._shown(text[: len(text) - len(self._rest)])

    def end(self) -> str:
        """What is left at the end; colours do not outlive the log."""
        last = self._shown(self._rest + self._decoder.decode(b"", final=True))
        self._rest = ""
        return last + ("\x1b[0m" if self._coloured else "")

    def _shown(self, text: str) -> str:
        out = []
        at = 0
        for found in _SEQUENCE.finditer(text):
            out.append(_CONTROL.sub(_MARK, text[at : found.start()]))
            if _HARMLESS.fullmatch(found[0]):
                out.append(found[0])
                self._coloured = True
            at = found.end()
        out.append(_CONTROL.sub(_MARK, text[at:]))
        return "".join(out)
