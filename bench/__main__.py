"""`make bench`: print the table, and write it beside its JSON.

`make bench ARGS="line start-up"` takes some measures only, `--quick` fewer rounds; `--write` puts the table into
docs/benchmarks.md and the figures into docs/benchmarks.json.
"""

import json
import os
import platform
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path

from bench.adoption import adoption
from bench.crowd import crowd
from bench.gate import gate
from bench.isolation import isolation
from bench.measures import MEASURES as HERE
from bench.measures import Figure
from bench.owners import owners
from bench.tunnel import tunnel
from bench.turns import turns

MEASURES = {
    **HERE,
    "crowd": crowd,
    "adoption": adoption,
    "gate": gate,
    "isolation": isolation,
    "owners": owners,
    "tunnel": tunnel,
    "turns": turns,
}
DOCS = Path(__file__).resolve().parent.parent / "docs"
BEGIN, END = "<!-- table: begin, written by `make bench ARGS=--write` -->", "<!-- table: end -->"


def number(value: float) -> str:
    """Three digits that matter."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(figures: list[Figure]) -> str:
    """The figures as a Markdown table."""
    rows = ["| measure | figure | to reach | | |", "|---|---:|---|---|---|"]
    for one in figures:
        mark = "✓" if one.reached else "✗"
        rows.append(f"| {one.what} | {number(one.value)} {one.unit} | {one.target} | {mark} | {one.note} |")
    return "\n".join(rows)


def machine() -> str:
    """What it was measured on."""
    model = next(
        (
            row.split(":")[1].strip()
            for row in Path("/proc/cpuinfo").read_text().splitlines()
            if row.startswith("model name")
        ),
        "?",
    )
    day = time.strftime("%Y-%m-%d", time.gmtime())
    return f"{day}, Python {platform.python_version()}, {os.cpu_count()} cores ({model}), Linux {platform.release().split('-')[0]}"


def main(argv: list[str]) -> int:
    """Measure, print, and write when asked."""
    quick, write = "--quick" in argv, "--write" in argv
    wanted = [word for word in argv if not word.startswith("-")] or list(MEASURES)
    unknown = [word for word in wanted if word not in MEASURES]
    if unknown:
        print(f"no measure {', '.join(unknown)}; there are: {', '.join(MEASURES)}")
        return 2
    figures: list[Figure] = []
    broken = 0
    for name in wanted:
        print(f"… {name}", file=sys.stderr, flush=True)
        try:
            for figure in MEASURES[name](quick):
                figures.append(figure)
                print(
                    f"  {figure.what}: {number(figure.value)} {figure.unit} ({figure.target}) {figure.note}",
                    file=sys.stderr,
                    flush=True,
                )
        except Exception:  # noqa: BLE001  one broken measure must not hide the others
            traceback.print_exc()
            broken += 1
    print(f"\n{machine()}\n\n{table(figures)}")
    if write:
        page = DOCS / "benchmarks.md"
        head, _, rest = page.read_text().partition(BEGIN)
        page.write_text(f"{head}{BEGIN}\n\n{machine()}\n\n{table(figures)}\n\n{END}{rest.partition(END)[2]}")
        document = {"machine": machine(), "figures": [asdict(one) for one in figures]}
        (DOCS / "benchmarks.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
