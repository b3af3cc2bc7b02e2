"""A report for GitHub made fit for a terminal: its HTML becomes Markdown, its pictures curves. Pure."""

import html
import json
import re
from typing import Final

from pushtrain.demo.curve import curve

_PICTURES: Final = re.compile(r"<p>\s*(?:<img [^>]*>\s*)+</p>")
_FOLDED: Final = re.compile(r"<details>\s*<summary>(.*?)</summary>.*?</details>", re.DOTALL)
_OPENED: Final = re.compile(r"<summary>(.*?)</summary>", re.DOTALL)
_CODE: Final = re.compile(r"<code>(.*?)</code>", re.DOTALL)
_LINK: Final = re.compile(r"(?<!!)\[([^\]]*)\]\([^)]*\)")
_TAG: Final = re.compile(r"</?(?:details|sub|p|img)\b[^>]*>")
_BLOCK: Final = re.compile(r"^(`{3,}|~{3,})[^\n]*\n.*?^\1[^\S\n]*$", re.DOTALL | re.MULTILINE)
_KEPT: Final = re.compile("\x00([0-9]+)\x00")


def readable(report: str, metrics: str = "") -> str:
    """The report's Markdown without HTML; what is folded there stays folded.

    Args:
        report: `README.md` of a run.
        metrics: Its `metrics.json`; the series are drawn in place of the pictures.
    """
    blocks: list[str] = []

    def keep(found: re.Match[str]) -> str:
        blocks.append(found[0])
        return f"\0{len(blocks) - 1}\0"

    drawn = curves(metrics)
    text = _BLOCK.sub(keep, report.replace("\0", ""))
    text = _PICTURES.sub(lambda _: drawn, text)
    text = _FOLDED.sub(lambda found: f"▸ {found[1].strip()}\n", text)
    text = _OPENED.sub(lambda found: f"**{found[1].strip()}**\n", text)
    text = _CODE.sub(lambda found: f"`{html.unescape(found[1]).replace('|', chr(92) + '|')}`", text)
    text = _TAG.sub("", _LINK.sub(r"\1", text))
    return _KEPT.sub(lambda found: blocks[int(found[1])], text)


def curves(metrics: str) -> str:
    """The series of a `metrics.json`, drawn, as Markdown; empty when there is nothing to draw."""
    drawn = [
        curve(series["name"], values)
        for series in (json.loads(metrics)["series"] if metrics else ())
        if len(values := [value for value in series["values"] if value is not None]) > 1
    ]
    return "```text\n" + "\n\n".join(drawn) + "\n```\n" if drawn else ""


def last_value(metrics: str, name: str) -> float | None:
    """The last finite value of one metric in `metrics.json`; None: there is none."""
    for series in json.loads(metrics)["series"]:
        if series["name"] == name:
            return next((float(value) for value in reversed(series["values"]) if value is not None), None)
    return None
