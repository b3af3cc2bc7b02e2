"""Markdown that cannot be broken by what it shows.

Names, branches, commands, logs and summaries come from a repository or a job. `text` and `code` show them as
they are; `summary` lets a job's own Markdown through and keeps it from swallowing what follows; `clean_log`
makes terminal output readable. GitHub Flavored Markdown, https://github.github.com/gfm/. Pure.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final
from urllib.parse import quote

_SPECIAL: Final = re.compile(r"[&<>`*\[\]|~$\\]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=\bwww)\.|@(?=\w)")
_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)
"""Controls, and what turns the direction of writing or takes no room."""
_ESCAPES: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|[ -/]*[0-~])"
)
_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_TAG: Final = re.compile(
    r"<(/?)([A-Za-z][A-Za-z0-9]*)"
    r"((?:\s+[a-z-]+(?:=(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s\"'<>`]+))?)*)\s*(/?)>"
)
_VOID: Final = frozenset({"br", "hr", "img"})
_PAIRED: Final = frozenset(
    re.findall(
        r"\w+",
        "a b code dd del details div dl dt em h1 h2 h3 h4 h5 h6 i ins kbd li ol p s span"
        " strong sub summary sup table tbody td th thead tr tt ul",
    )
)
_HARMLESS: Final = re.compile(
    r"(?:\s+(?:align|width|height|alt|title|open|colspan|rowspan|start)(?:=(?:\"[^\"<>]*\"|'[^'<>]*'|[\w.%-]+))?"
    r"|\s+(?:href|src)=\"[^\"<>]*\")*\s*"
)
"""Attributes that place and name things; what styles, loads or runs is none."""
_SOURCE: Final = re.compile(r"\ssrc=\"([^\"]*)\"")
_IMAGE: Final = re.compile(r"!(?=\[)(?:\[[^\[\]\n]*\]\(([^()\s]+)(?: \"[^\"\n]*\")?\))?")
_ACTIVE: Final = re.compile(
    r"<(?=/?(?:img|picture|source|svg|image|video|audio|iframe|frame|object|embed|link|meta|style|script|form"
    r"|input|button|base|body|blockquote|details)\b|[!?]|[a-z][\w-]*(?:\s*$|[\s/][^<>]*(?:=|$)))",
    re.IGNORECASE,
)
"""Where a tag begins that does something, or has an attribute, which may do anything."""
_LINK: Final = re.compile(r"(?<=\]\()(?:\./)?([^()\s:]+)(?=[)\s])|(?<=src=\")(?:\./)?([^\":]+)(?=\")")


def text(value: str, *, most: int = 300) -> str:
    """The value as inline text, nothing in it taken for markup, on one line."""
    plain = _UNSEEN.sub("", " ".join(value.split()))
    shown = plain if len(plain) <= most else f"{plain[: most - 1]}…"
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", shown)


def code(value: str, *, most: int = 500) -> str:
    """The value as inline code, also inside a table."""
    plain = _UNSEEN.sub("", " ".join(value.split()))
    shown = plain if len(plain) <= most else f"{plain[: most - 1]}…"
    return f"<code>{_SPECIAL.sub(lambda found: f'&#{ord(found[0])};', shown)}</code>" if shown else ""


def block(value: str, language: str = "") -> str:
    """The value as a fenced block, with a fence longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`+", value)), default=0)
    fence = "`" * max(3, longest + 1)
    body = value if value.endswith("\n") else f"{value}\n"
    return f"{fence}{language}\n{body}{fence}\n"


def link(shown: str, target: str) -> str:
    """A link; `shown` is Markdown already, `target` a URL or a relative path."""
    safe = quote(target, safe="/:@!$&'*+,;=~-._%?#" if "://" in target else "/~-._")
    return f"[{shown}]({safe})"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, align: str = "") -> str:
    """A table of cells that are Markdown already. `align`: one of `l`, `r` for each column."""
    marks = {"l": ":--", "r": "--:"}
    ruler = [marks.get(way, "---") for way in align.ljust(len(header))]
    lines = [header, ruler, *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def details(title: str, body: str, *, opened: bool = False) -> str:
    """A part that the reader unfolds; `title` is HTML already."""
    return (
        f"<details{' open' if opened else ''}>\n<summary>{title}</summary>\n\n{body.rstrip()}\n\n</details>\n"
    )


def clean_log(raw: bytes) -> str:
    """Terminal output as text: no colours, of a progress bar only its last state, no control characters."""
    lines = []
    for line in _ESCAPES.sub("", raw.decode("utf-8", "replace")).split("\n"):
        states = [state for state in line.split("\r") if state.strip()]
        lines.append(
            _UNSEEN.sub("", _rubbed_out(states[-1]) if states else "").replace("\t", "    ").rstrip()
        )
    return "\n".join(lines)


def _rubbed_out(line: str) -> str:
    """A line after its backspaces."""
    while "\b" in line:
        line, count = re.subn("[^\b]\b", "", line)
        if not count:
            return line.replace("\b", "")
    return line


def last_lines(log: str, *, lines: int, width: int) -> str:
    """The end of a log, each line cut to a width."""
    kept = log.rstrip("\n").split("\n")[-lines:]
    return "\n".join(line if len(line) <= width else f"{line[: width - 1]}…" for line in kept)


def summary(markdown: str, *, most: int, files: Mapping[str, str]) -> str:
    """A job's own Markdown, bounded, its fences and tags closed, foreign HTML shown as text.

    Images are the run's own files and no others: one from elsewhere would tell its host who reads the report.
    What is a fence to us need not be one to the host (in a list, in HTML), so what is in it is not trusted
    either; and `quoted` keeps all of it from the rest of the page.

    Args:
        markdown: What the job wrote.
        most: Characters let through; the cut is stated.
        files: Result path → where the report finds it; links to results are led there.
    """
    kept = markdown if len(markdown) <= most else f"{markdown[:most]}\n\n…"
    kept = _UNSEEN.sub("", kept.replace("\r\n", "\n").replace("\r", "\n"))
    lines = []
    fence = ""
    opened: list[str] = []
    for line in kept.split("\n"):
        found = _FENCE.match(line)
        if fence:
            closes = found and found[1].startswith(fence) and not found[2].strip()
            fence = "" if closes else fence
            lines.append(_images(_ACTIVE.sub("< ", line), {}))
        elif found and not (found[1][0] == "`" and "`" in found[2]):
            fence = found[1]
            lines.append(line)
        else:
            led = _LINK.sub(lambda at: _led(at, files), line)
            lines.append(_images(_tags(led, opened, files), files))
    if fence:
        lines.append(fence)
    closing = "".join(f"</{name}>" for name in reversed(opened))
    out = "\n".join(lines).strip("\n")
    return f"{out}\n\n{closing}\n" if closing else f"{out}\n"


def quoted(markdown: str) -> str:
    """A part that ends where it ends: whatever it leaves open, what follows is not in it."""
    return "".join(f"> {line}".rstrip() + "\n" for line in markdown.rstrip("\n").split("\n"))


def attribute(value: str) -> str:
    """The value inside the quotes of an HTML attribute."""
    return text(value).replace('"', "&#34;")


def _images(line: str, files: Mapping[str, str]) -> str:
    """A line in which only the run's own files are images; a space takes the others' power."""
    ours = {quote(path) for path in files.values()}
    return _IMAGE.sub(lambda at: at[0] if at[1] in ours else f"! {at[0][1:]}", line)


def _led(found: re.Match[str], files: Mapping[str, str]) -> str:
    path = found[1] or found[2]
    return quote(files[path]) if path in files else found[0]


def _tags(line: str, opened: list[str], files: Mapping[str, str]) -> str:
    """A line with known tags kept, `opened` following them, and everything else of HTML shown as text."""
    out = []
    at = 0
    for found in _TAG.finditer(line):
        out.append(line[at : found.start()].replace("<", "&lt;"))
        fine = _fit(found, files) and _known(found, opened)
        out.append(found[0] if fine else escape(found[0], quote=False))
        at = found.end()
    out.append(line[at:].replace("<", "&lt;"))
    return "".join(out)


def _fit(found: re.Match[str], files: Mapping[str, str]) -> bool:
    """Whether a tag's attributes do nothing, and its image is the run's own."""
    if not _HARMLESS.fullmatch(found[3]):
        return False
    source = _SOURCE.search(found[3])
    ours = {quote(path) for path in files.values()}
    return source is None if found[2].lower() != "img" else source is not None and source[1] in ours


def _known(found: re.Match[str], opened: list[str]) -> bool:
    closing, name = found[1], found[2].lower()
    if name in _VOID:
        return not closing
    if name not in _PAIRED:
        return False
    if not closing:
        if not found[4]:
            opened.append(name)
        return not found[4]
    if name not in opened:
        return False
    while opened.pop() != name:
        continue
    return True
