"""A report for GitHub made fit for a terminal: its HTML becomes Markdown, its pictures curves. Pure."""

import html
import json
import re
from typing import Any, Final

from pushtrain.demo.curve import curve

_PICTURES: Final = re.compile(r"<p>\s*(?:<img [^>]*>\s*)+</p>")
_FOLDED: Final = re.compile(r"<details[^>]*>\s*<summary>(.*?)</summary>", re.DOTALL)
_CODE: Final = re.compile(r"<code>(.*?)</code>", re.DOTALL)
_HERE: Final = re.compile(r"\[([^\]]*)\]\((?![a-z]+://)[^)]*\)")
_TAG: Final = re.compile(r"</?(?:details|sub|p|img)\b[^>]*>")
_FENCED: Final = re.compile(r"(^(?:```|~~~).*?^(?:```|~~~)[^\n]*$)", re.DOTALL | re.MULTILINE)


def readable(report: str, metrics: str = "") -> str:
    """The report's Markdown without HTML.

    Args:
        report: `README.md` of a run.
        metrics: Its `metrics.json`; the series that have a picture are drawn in its place.
    """
    drawn = _curves(json.loads(metrics)) if metrics else ""
    report = _PICTURES.sub(lambda _: drawn, report)
    parts = _FENCED.split(report)
    return "".join(part if number % 2 else _plain(part) for number, part in enumerate(parts))


def _plain(text: str) -> str:
    text = _FOLDED.sub(lambda found: f"**{found[1].strip()}**\n", text)
    text = _CODE.sub(lambda found: f"`{html.unescape(found[1]).replace('|', chr(92) + '|')}`", text)
    return _TAG.sub("", _HERE.sub(r"\1", text))


def _curves(document: Any) -> str:
    drawn = [
        curve(series["name"], values)
        for series in document["series"]
        if len(values := [value for value in series["values"] if value is not None]) > 1
    ]
    return "```text\n" + "\n\n".join(drawn) + "\n```" if drawn else ""


def last_value(metrics: str, name: str) -> float | None:
    """The last finite value of one metric in `metrics.json`; None: there is none."""
    for series in json.loads(metrics)["series"]:
        if series["name"] == name:
            return next((float(value) for value in reversed(series["values"]) if value is not None), None)
    return None
