"""Reports, their Markdown and their charts: whatever a job is called and writes, the page holds."""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pushtrain.core.lifecycle import Exited, Prepared, advance
from pushtrain.core.values.jobspec import DataSource
from pushtrain.core.values.run import Artifact, Fetched, GpuUse, Run, StageTime
from pushtrain.core.values.states import Outcome, Reason, Stage, State
from pushtrain.executor.results import index, plot, report, wording
from pushtrain.executor.results import markdown as md
from pushtrain.executor.results.metrics import Metric
from pushtrain.executor.results.report import Story
from pushtrain.plumbing.attempts.log import LogEnds
from pushtrain.testing import NOON, a_command, a_run, a_spec, an_attempt

SVG = "{http://www.w3.org/2000/svg}"


def metric(name: str, *values: float | None) -> Metric:
    steps = tuple(float(at) for at in range(1, len(values) + 1))
    return Metric(name=name, steps=steps, values=values, points=len(values))


def ended(run: Run, outcome: Outcome = Outcome.SUCCEEDED, **changes: object) -> Run:
    over = {"state": State.PUBLISHING, "outcome": outcome, "reason": Reason.EXITED, "attempt": 1}
    return run.model_copy(update={**over, **changes})


def story(**changes: object) -> Story:
    run = ended(a_run())
    attempt = an_attempt(run, started_at=NOON + 2, ended_at=NOON + 63, exit_code=0, log_size=6)
    given_: dict[str, object] = {
        "run": run, "executor": "lab-3", "attempts": (attempt,), "log": LogEnds(b"hello\n", b"", 0, 6),
    }  # fmt: skip
    return Story(**{**given_, **changes})  # type: ignore[arg-type]


def page(**changes: object) -> str:
    return report.write(story(**changes))["README.md"].decode()


# --- the page ---


def test_a_report_tells_what_ran_where_and_how_it_went() -> None:
    text = page(subject="Try a larger rate")
    assert text.startswith("# ✅ succeeded · train\n")
    link = "https://github.com/octo/hello/commit/1234567890abcdef1234567890abcdef12345678"
    assert f"[`1234567`]({link}) Try a larger rate" in text
    assert "<code>echo hello</code>" in text
    assert "succeeded after 1\xa0min\xa001\xa0s of training, exit code 0" in text
    assert "lab-3, isolation none" in text
    assert "2026-09-21 14:13:20 UTC" in text


def test_a_failure_says_why_and_shows_the_logs_end_at_once() -> None:
    run = ended(a_run(), Outcome.FAILED, detail="The command ended with exit code 3.")
    text = page(run=run)
    assert text.startswith("# ❌ failed · train\n\n> The command ended with exit code 3.\n")
    assert "<details open>\n<summary>Last line of 6 B</summary>" in text


@pytest.mark.parametrize(
    ("outcome", "reason", "title"),
    [
        (Outcome.FAILED, Reason.TIMEOUT, "⏱️ failed (timeout)"),
        (Outcome.CANCELLED, Reason.CANCELLED, "🚫 cancelled"),
        (Outcome.LOST, Reason.LOST, "❓ lost"),
    ],
)
def test_every_outcome_has_its_title(outcome: Outcome, reason: Reason, title: str) -> None:
    assert page(run=ended(a_run(), outcome, reason=reason)).startswith(f"# {title} · train\n")


@pytest.mark.parametrize(
    ("outcome", "reason", "told"),
    [
        (Outcome.LOST, Reason.LOST, "| lost during training |"),
        (Outcome.FAILED, Reason.TIMEOUT, "| failed (timeout) after 1\xa0min\xa001\xa0s of training |"),
        (Outcome.CANCELLED, Reason.CANCELLED, "| cancelled after 1\xa0min\xa001\xa0s of training |"),
    ],
)
def test_a_result_names_its_reason_once(outcome: Outcome, reason: Reason, told: str) -> None:
    run = ended(a_run(), outcome, reason=reason)
    (attempt,) = story(run=run).attempts
    assert told in page(run=run, attempts=(attempt.model_copy(update={"exit_code": None}),))


def test_a_report_of_a_possible_duplicate_says_so() -> None:
    command = a_command().model_copy(update={"possible_duplicate": True})
    told = page(run=ended(a_run(command)))
    assert "another executor that may have taken this run on" in told
    assert "Possible duplicate" not in page()


def test_a_run_that_never_started_has_a_report_too() -> None:
    run = ended(a_run(), Outcome.CANCELLED, reason=Reason.CANCELLED, attempt=0)
    files = report.write(story(run=run, attempts=()))
    assert "cancelled before it started" in files["README.md"].decode()
    assert sorted(files) == ["README.md", "run.json"]


def test_stages_data_environment_and_machine_are_told() -> None:
    source = DataSource(url="https://user@data.example/d.npz?sig=SECRET", path="data/d.npz")
    fetched = Fetched(source=source, sha256="ab" * 32, size=1_200_000, pinned=False)
    lent = Fetched(source=DataSource(mount="imagenet", path="in"), sha256="", size=0, pinned=True)
    stages = (
        StageTime(stage=Stage.FETCH, seconds=0.02),
        StageTime(stage=Stage.TRAIN, seconds=60.98, note="ok"),
    )
    attempt = an_attempt(
        story().run, stages=stages, data=(fetched, lent), environment="uv: 14 packages", cpu_seconds=81,
        max_rss=812_000_000, signal=9, number=2, isolation="sandbox", disk_read=5_000_000, disk_written=2_000,
        gpu=GpuUse(
            seconds=7620, mean_utilization=93.2, peak_utilization=100, mean_memory=9 * 10**9,
            peak_memory=11 * 10**9, joules=5_112_000, estimated=True, idle=1200,
        ),
    )  # fmt: skip
    machine = report.Machine(
        cpu="EPYC", cpus=2, memory=25_300_000_000, gpus=("RTX 4090, 24 GiB",), driver="580"
    )
    text = page(attempts=(attempt,), machine=machine)
    assert "| fetch | 20\xa0ms | 0 % |" in text
    assert "| **in all** | **1\xa0min\xa001\xa0s** |" in text
    assert "not pinned" in text
    assert "lent by the owner" in text
    assert "SECRET" not in text
    assert "user@" not in text
    assert "2 x EPYC, 25.3 GB memory" in text
    assert "RTX 4090, 24 GiB (driver 580)" in text
    assert "signal 9" in text
    assert "5.0 MB read from disk and 2.0 kB written" in text
    assert (
        "2\xa0h\xa007\xa0min of GPU, 93\xa0% busy (100\xa0% at most), 11.0 GB of its memory at most "
        "(9.0 GB on average), 1.42\xa0kWh (estimated), idle for 20\xa0min\xa000\xa0s at a time"
    ) in text
    assert "| **Attempt** | 2 |" in text
    assert "uv: 14 packages" in text


def test_each_file_says_where_it_is() -> None:
    def one(path: str, where: str, **more: object) -> Artifact:
        return Artifact.model_validate({"path": path, "size": 5, "sha256": "0" * 64, "where": where, **more})

    files = (
        one("a b.txt", "git"),
        one("m.pt", "lfs"),
        one("big", "executor", until=NOON + 30 * 86400),
        one("huge", "url", url="s3://b/huge"),
        one("pipe", "refused", why="it is a FIFO"),
    )
    text = page(files=files)
    assert "[<code>a b.txt</code>](files/a%20b.txt) | 5 B | in Git" in text
    assert "[<code>m.pt</code>](files/m.pt) | 5 B | in Git LFS" in text
    assert f"on lab-3 until 2026-10-21: `pushtrain results fetch {story().run.short}`" in text
    assert "s3&#58;//b/huge" in text
    assert "1 not taken" in text
    assert "<code>pipe</code>: it is a FIFO" in text
    many = tuple(one(f"f{number}", "git") for number in range(150))
    assert "50 more are listed in [run.json](run.json)" in page(files=many)


def test_run_json_holds_everything_but_the_claim() -> None:
    run = advance(
        advance(
            a_run().model_copy(update={"state": State.PREPARING, "token": "t0ken", "attempt": 1}),
            Prepared(),
            now=NOON,
        ),
        Exited(Reason.EXITED, 0),
        now=NOON,
    )
    record = json.loads(report.write(story(run=run, metrics=(metric("loss", 2, 1),)))["run.json"])
    assert record["version"] == 1
    assert record["run"]["id"] == run.id
    assert "token" not in record["run"]
    assert record["metrics"]["loss"] == {"last": 1, "points": 2, "best": 1, "best_step": 2}
    assert record["log"] == {"size": 6, "left_out": 0}
    assert Run.model_validate(record["run"]).command == run.command


def test_metrics_are_drawn_tabled_and_kept() -> None:
    metrics = (metric("train/loss", 2, 1), metric("val/loss", 3, None), metric("lr", 0.1, 0.1))
    files = report.write(story(metrics=metrics))
    assert {"plots/loss.svg", "plots/lr.svg", "metrics.json"} <= files.keys()
    text = files["README.md"].decode()
    assert '<img src="plots/loss.svg" alt="loss" width="410">' in text
    assert "| <code>train/loss</code> | 1 | 1 at step 2 | 2 |" in text
    assert "| <code>val/loss</code> | NaN | 3 at step 1 | 2 |" in text
    assert json.loads(files["metrics.json"])["series"][1]["values"] == [3, None]


def test_many_metrics_are_drawn_up_to_a_bound() -> None:
    files = report.write(story(metrics=tuple(metric(f"m{n}", 1, 2) for n in range(40))))
    assert sum(name.endswith(".svg") for name in files) == report.MOST_CHARTS


def test_the_command_stands_beside_as_it_was_received() -> None:
    files = report.write(story(command=b'{"x":1}', headers={"signature": "s"}))
    assert files["command.json"] == b'{"x":1}'
    assert json.loads(files["command.headers.json"]) == {"signature": "s"}
    assert "[signed command](command.json)" in files["README.md"].decode()


def test_a_cut_log_says_how_much_is_missing_to_the_byte() -> None:
    log = LogEnds(b"head\n", b"tail\n", 990, 1000)
    files = report.write(story(log=log))
    assert files["log.txt"] == b"head\n\n[pushtrain: 990 of 1000 bytes left out here]\n\ntail\n"
    assert "[log.txt](log.txt); 990 of 1,000 bytes were left out between." in files["README.md"].decode()
    assert report.write(story())["log.txt"] == b"hello\n"
    assert "wrote nothing" in page(log=LogEnds(b"", b"", 0, 0))


HOSTILE = [
    "```", "</details>", "<!--", "<script>alert(1)</script>", "| a | b |", "# title", "[x](javascript:1)",
    "${{ secrets.TOKEN }}", "`code`", "***", "$$x$$", "@octocat", "https://evil.example", "a\nb", "\u202eabc",
    "\x1b[31m", "&lt;", "![x](y)", "<img src=x onerror=y>", "\\", "_a_", "~~x~~", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("evil", HOSTILE)
def test_nothing_in_a_name_is_taken_for_markup(evil: str) -> None:
    shown, coded = md.text(evil), md.code(evil)
    for out in (shown, coded.removeprefix("<code>").removesuffix("</code>")):
        assert not re.search(r"[<>`*\[\]|~$\\]", out)
        assert "\n" not in out
        assert "\x1b" not in out
        assert "\u202e" not in out
        assert "://" not in out
        assert not re.search(r"&(?!#\d+;)", out)
        assert not re.search(r"(?<!\w)_|_(?!\w)", out.replace("&#95;", ""))
        out.encode()


@pytest.mark.parametrize("evil", HOSTILE)
def test_a_hostile_run_keeps_the_pages_form(evil: str) -> None:
    safe = evil.encode("utf-8", "replace").decode()
    job = a_spec(command=f"echo {safe}", cell={"lr": safe})
    run = ended(a_run(a_command(job=job)), Outcome.FAILED, detail=safe)
    text = page(
        run=run, subject=safe, summary=safe, log=LogEnds(safe.encode() * 3, b"", 0, 9),
        files=(Artifact(path=safe, size=1, sha256="", where="refused", why=safe),),
        metrics=(metric(safe, 1, 2),),
    )  # fmt: skip
    outside = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", text)
    headings = re.findall(r"(?m)^## (\w+)", outside)
    assert headings == ["Log", "Metrics", "Summary", "Files"]
    assert "<!--" not in outside
    assert "<script" not in outside
    assert len(re.findall(r"(?m)^<details", outside)) == len(re.findall(r"(?m)^</details>", outside))
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in re.findall(r"(?m)^\| \*\*.*$", outside))


# --- Markdown ---


@given(st.text())
@example("```\n```")
def test_a_block_holds_any_text(text: str) -> None:
    out = md.block(text, "text")
    fence = out.split("text", 1)[0]
    assert out.rstrip("\n").endswith(f"\n{fence}")
    body = out.removeprefix(f"{fence}text\n").rstrip("\n").removesuffix(fence)
    assert fence not in body
    assert text.rstrip("\n") in body


def test_a_log_is_cleaned_for_the_report() -> None:
    raw = b"\x1b[1;32mok\x1b[0m\r\n 10%\r 50%\r100% done\n\x1b]0;title\x07x\tabc\b\bY\n\xff\x00end"
    assert md.clean_log(raw) == "ok\n100% done\nx    aY\n\ufffdend"


@given(st.binary(max_size=300))
def test_any_log_is_cleaned_to_lines_without_controls(raw: bytes) -> None:
    cleaned = md.clean_log(raw)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", cleaned)
    assert cleaned.count("\n") == len(re.sub(rb"", b"", raw).split(b"\n")) - 1 or b"\x1b" in raw


def test_the_end_of_a_log_is_bounded_both_ways() -> None:
    shown = md.last_lines("\n".join(["x" * 500] * 100), lines=10, width=80)
    assert len(shown.split("\n")) == 10
    assert max(map(len, shown.split("\n"))) == 80


def summary(text: str, files: Mapping[str, str] | None = None, most: int = 10_000) -> str:
    return md.summary(text, most=most, files=files or {})


def test_a_summary_keeps_ordinary_markdown_and_html() -> None:
    text = "### Title\n\n| a | b |\n|---|---|\n| 1 | <b>2</b><br> |\n\n```python\nx < y\n```\n"
    assert summary(text) == text


def test_a_summary_is_closed_where_it_was_left_open() -> None:
    assert summary("<details><summary>more</summary>\n\ntext") == (
        "<details><summary>more</summary>\n\ntext\n\n</details>\n"
    )
    assert summary("````\ncode ``` \n```") == "````\ncode ``` \n```\n````\n"
    assert summary("~~~\n```\n~~~ \nout <x>") == "~~~\n```\n~~~ \nout &lt;x&gt;\n"
    assert summary("a</details></table>b") == "a&lt;/details&gt;&lt;/table&gt;b\n"
    assert summary("x <!-- swallow\n<script>") == "x &lt;!-- swallow\n&lt;script&gt;\n"
    assert summary("<div><p>x</div>") == "<div><p>x</div>\n"


def test_a_summary_is_bounded() -> None:
    assert summary("x" * 100, most=10) == "xxxxxxxxxx\n\n…\n"


def test_a_summary_finds_the_runs_files() -> None:
    files = {"plots/a b.png": "files/plots/a b.png", "m.csv": "files/m.csv"}
    assert summary("[t](m.csv) [u](./m.csv) [v](other.csv) [w](https://x/m.csv)", files) == (
        "[t](files/m.csv) [u](files/m.csv) [v](other.csv) [w](https://x/m.csv)\n"
    )
    assert summary('<img src="plots/a b.png">', files) == '<img src="files/plots/a%20b.png">\n'


@given(st.text(alphabet="<>/`~ab\n details!-[]()\"'="))
def test_any_summary_leaves_no_fence_tag_or_comment_open(text: str) -> None:
    out = summary(text)
    fence = ""
    outside = []
    for line in out.split("\n"):
        found = re.match(r" {0,3}(`{3,}|~{3,})(.*)", line)
        if fence:
            if found and found[1].startswith(fence) and not found[2].strip():
                fence = ""
        elif found and not (found[1][0] == "`" and "`" in found[2]):
            fence = found[1]
        else:
            outside.append(line)
    assert not fence
    assert "<!--" not in "\n".join(outside)
    opened = [tag.lower() for tag in re.findall(r"<(\w+)(?![^<>]*/>)", "\n".join(outside))]
    assert opened.count("details") == "\n".join(outside).lower().count("</details>")


FRAGMENTS = [
    "![t](https://evil.example/track.png)", "![t][ref]", "![ref]", "[ref]: https://evil.example/t.png",
    "![a\nb](https://evil.example/x)", "![a](<https://evil.example/x y>)", "![t](plots/own.png)",
    '<img src="https://evil.example/t.png">', "<img src=//evil.example/t>", '<img src="plots/own.png">',
    '<img src="x" srcset="https://evil.example/t 1x">', "<IMG\nSRC='https://evil.example/t'>",
    '<picture><source srcset="https://evil.example/t"></picture>', '<p style="background:url(//evil)">',
    "<svg><image href='https://evil.example'/></svg>", "<script>alert(1)</script>",
    "<style>@import 'x'</style>",
    "<iframe src='https://evil.example'>", '<a href="https://evil.example" onclick="x()">',
    "<!-- ", "<![CDATA[",
    "<?php ", "</blockquote>", "<details>", "</details>", "<div>", "```", "- ```", "  ```", "~~~~", "> ```",
    "1. ~~~", "    ", "\t", "# forged", "## Files", "| a | b |\n|---|---|", "\\", "`", "``", "<b>", "x", "\n",
    "\n\n", "***", "[^1]: note", "&lt;img src=x&gt;", "<", ">", "![", "](", ")", '"', "'", "\r",
    "\x0b", "\u2028", "<p\nstyle=x>", "<p title='", "' style=y>", "<p/style=x>",
]  # fmt: skip
LOADING = re.compile(
    r"<\s*/?(script|style|iframe|svg|image|picture|source|video|audio|object|embed|link|meta|form|input|base)\b"
    r"|srcset|style=|\son\w+=|<img[^>]*src=(?![\"']?(?:plots/|files/))",
    re.IGNORECASE,
)


def rendered(text: str) -> tuple[list[str], str, list[str]]:
    """A page as a Markdown reader sees it: sources of images, raw HTML, and the page's own headings."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)
    images: list[str] = []
    html: list[str] = []
    headings: list[str] = []
    for number, token in enumerate(tokens):
        if token.type == "heading_open" and token.tag == "h2" and token.level == 0:
            headings.append(tokens[number + 1].content)
        html += [token.content] if token.type == "html_block" else []
        for child in token.children or ():
            images += [str(child.attrs["src"])] if child.type == "image" else []
            html += [child.content] if child.type == "html_inline" else []
    tags = re.findall(r"<[A-Za-z/!?][^<>]*>?", "\n".join(html))
    return images, "\n".join(tags), headings


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=6)), max_size=14),
    st.sampled_from(["", "\n"]),
)
def test_whatever_a_summary_holds_it_loads_nothing_from_elsewhere_and_ends_where_it_ends(
    parts: list[str], between: str
) -> None:
    files = (Artifact(path="plots/own.png", size=1, sha256="", where="git"),)
    text = page(summary=between.join(["x", *parts]), files=files)
    images, html, headings = rendered(text)
    assert all(source == "files/plots/own.png" for source in images)
    assert not LOADING.search(html), LOADING.search(html)
    assert headings[-3:] == ["Summary", "Files", "Log"]


def test_a_fence_that_is_none_to_the_host_hides_no_image_and_swallows_no_part() -> None:
    """In a list the host's fence ends where ours begins; inside HTML there is no fence at all."""
    files = (Artifact(path="a", size=1, sha256="", where="git"),)
    track = '<img src="https://evil.example/t.png"> ![t](https://evil.example/t.png)'
    evils = [f"- ```\n  ```\n{track}", f"<div>\n```\n{track}\n", f"<!--\n```\n-->\n{track}"]
    styled = ("<p style=x>", "<p\nstyle=x>", "<p title='\n' style=x>", "<p/style=x>", "<b onclick=x>")
    evils += [f"<div>\n```\n{tag}\n" for tag in styled]
    for evil in evils:
        images, html, headings = rendered(page(summary=evil, files=files))
        assert (images, headings[-2:]) == ([], ["Files", "Log"])
        assert not LOADING.search(html)


def test_code_in_a_fence_stays_as_it_is_where_it_can_do_nothing() -> None:
    shown = "```\nvector<int> a; if (a < b) return <T>x; // <b>\n```\n"
    assert md.summary(shown, most=1000, files={}) == shown


def test_a_metrics_name_stays_inside_the_attribute_that_shows_it() -> None:
    evil = 'loss" srcset="https://evil.example/t.png 1x'
    text = page(metrics=(metric(evil, 1, 2),))
    (tag,) = re.findall(r"<img [^>]*>", text)
    assert tag.count('"') == 6
    assert "srcset=" not in tag.replace("srcset=&#34;", "")


# --- charts ---


def drawn(*metrics: Metric, title: str = "loss") -> ET.Element:
    return ET.fromstring(plot.draw(title, metrics))  # noqa: S314  our own


def test_a_chart_is_an_svg_with_title_ticks_and_last_value() -> None:
    root = drawn(metric("loss", 2.5, 1.5, 0.5))
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert texts[0] == "loss"
    assert "last 0.5" in texts
    assert {"0.5", "1", "1.5", "2", "2.5"} <= set(texts)
    assert len(list(root.iter(f"{SVG}polyline"))) == 1
    assert "prefers-color-scheme:dark" in (root.findtext(f"{SVG}style") or "")


def test_train_and_validation_share_a_chart() -> None:
    names = ["train/loss", "val/loss", "loss_test", "accuracy", "val_accuracy", "lr"]
    groups = plot.charts([metric(name, 1, 2) for name in names])
    assert [(title, [one.name for one in members]) for title, members in groups] == [
        ("loss", ["train/loss", "val/loss", "loss_test"]),
        ("accuracy", ["accuracy", "val_accuracy"]),
        ("lr", ["lr"]),
    ]
    assert plot.charts([metric("nan", None)]) == []


def test_a_logarithmic_axis_is_for_three_decades_of_positive_values() -> None:
    assert "(log)" in (next(drawn(metric("x", 1e-6, 1)).iter(f"{SVG}text")).text or "")
    assert "(log)" not in (next(drawn(metric("x", 0, 1e9)).iter(f"{SVG}text")).text or "")


@pytest.mark.parametrize(
    "values",
    [(1.0,), (0.0, 0.0), (5.0, 5.0, 5.0), (-1e-12, 1e-12), (1e300, -1e300), (1e-320, 1e-300),
     (1.0, None, 2.0), (1e308, 1e-308), (1.7e308, -1.7e308)],
)  # fmt: skip
def test_odd_values_are_drawn_within_the_frame(values: tuple[float | None, ...]) -> None:
    root = drawn(metric("loss", *values))
    for line in root.iter(f"{SVG}polyline"):
        for place in line.attrib["points"].split():
            x, y = map(float, place.split(","))
            assert 0 <= x <= plot.WIDTH
            assert 0 <= y <= plot.HEIGHT


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30), st.text(max_size=20)
)
def test_any_finite_values_give_a_well_formed_chart(values: list[float], title: str) -> None:
    root = drawn(metric("m", *values), title=title)
    assert "nan" not in ET.tostring(root, "unicode").lower().replace(title.lower(), "")


def test_a_long_series_gives_a_small_file() -> None:
    assert len(plot.draw("x", [metric("x", *(float(n % 97) for n in range(5000)))])) < 10_000


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (1, "1"), (0.25, "0.25"), (0.123456, "0.1235"), (1234567, "1\u202f234\u202f567"),
     (1e-6, "1e-6"), (3.14159e9, "3.14e9"), (None, "NaN"), (-0.5, "-0.5"), (100.0, "100"), (99999.5, "1e5"),
     (1200.0, "1200")],
)  # fmt: skip
def test_numbers_are_shown_for_people(value: float | None, shown: str) -> None:
    assert plot.show(value) == shown


def test_durations_and_sizes_are_shown_for_people() -> None:
    shown = [wording.duration(value).replace("\xa0", " ") for value in (0.0451, 3.21, 59.99, 245, 7620)]
    assert shown == ["45 ms", "3.2 s", "1 min 00 s", "4 min 05 s", "2 h 07 min"]
    assert [wording.size(value) for value in (0, 999, 1000, 1_400_000, 5e12)] == [
        "0 B", "999 B", "1.0 kB", "1.4 MB", "5.0 TB",
    ]  # fmt: skip


# --- links and folders ---


@pytest.mark.parametrize(
    ("key", "link"),
    [
        ("github.com/octo/hello", "https://github.com/octo/hello/commit/"),
        ("gitlab.com/group/sub/hello", "https://gitlab.com/group/sub/hello/-/commit/"),
        ("localhost/srv/x", ""),
    ],
)
def test_commits_are_linked_where_the_hosts_form_is_known(key: str, link: str) -> None:
    text = wording.commit_link(key, "a" * 40)
    assert text == (f"[`aaaaaaa`]({link}{'a' * 40})" if link else "`aaaaaaa`")


def test_a_runs_folder_is_dated_by_acceptance() -> None:
    run = a_run()
    assert wording.folder(run) == f"runs/train/2026-09/21-1234567-{run.short}"


# --- the index ---


def rows(count: int, base: str = "") -> list[str]:
    runs = [ended(a_run(a_command(request=f"r{number}"))) for number in range(count)]
    return [index.row(run, [metric("loss", 2, 1)], "subject", 12.0, base=base) for run in runs]


def test_the_index_holds_the_last_fifty_newest_first() -> None:
    text: bytes | None = None
    everything = rows(60)
    for row in everything:
        text = index.root_page(text, [row], ["runs/train/2026-09"])
    assert text is not None
    shown = [line for line in text.decode().split("\n") if line.startswith("| ✅")]
    assert shown == everything[:9:-1]
    assert text.decode().count("- [train/2026-09](runs/train/2026-09/)") == 1


def test_a_row_that_is_there_is_not_doubled() -> None:
    (row,) = rows(1)
    once = index.root_page(None, [row], ["runs/train/2026-09"])
    assert index.root_page(once, [row], ["runs/train/2026-09"]) == once


def test_a_months_page_is_bounded_and_says_so() -> None:
    month = "runs/train/2026-09"
    everything = rows(index.LAST_OF_MONTH + 1, month)
    text = index.month_page(None, everything, "train", "2026-09")
    assert text is not None
    assert text.count(b"| \xe2\x9c\x85") == index.LAST_OF_MONTH
    assert b"folders beside this page" in text
    assert f"]({everything[0].split('](')[1].split('/)')[0]}/)".encode() in text
    assert b"](runs/" not in text.split(b"## ")[0]


def test_a_page_that_a_person_wrote_is_left_alone() -> None:
    assert index.root_page(b"# My project\n", rows(1), []) is None
    assert index.month_page(b"# My notes\n", rows(1), "train", "2026-09") is None


@pytest.mark.parametrize("evil", HOSTILE)
def test_a_hostile_row_is_read_back_as_one_row(evil: str) -> None:
    safe = evil.encode("utf-8", "replace").decode()
    run = ended(a_run(a_command(job=a_spec(cell={"x": safe}))))
    row = index.row(run, [metric(safe, 1)], safe, 1.0, base="")
    once = index.root_page(None, [row], [])
    (other,) = rows(1)
    twice = index.root_page(once, [other], [])
    assert twice is not None
    assert twice.decode().count(f"]({wording.folder(run)}/)") == 1
