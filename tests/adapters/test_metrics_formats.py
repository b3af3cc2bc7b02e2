"""Metrics formats: what training leaves is read, damaged tails included."""

import json
import math
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.adapters.metrics import FORMATS
from pushtrain.adapters.metrics.csv import Csv
from pushtrain.adapters.metrics.jsonl import JsonLines
from pushtrain.adapters.metrics.tensorboard import TensorBoard
from pushtrain.ports import MetricsFormat, Series


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while True:
        byte, value = value & 0x7F, value >> 7
        out += bytes([byte | (0x80 if value else 0)])
        if not value:
            return out


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def record(event: bytes) -> bytes:
    return struct.pack("<QI", len(event), 0) + event + struct.pack("<I", 0)


def event(step: int, *values: bytes) -> bytes:
    summary = b"".join(field(1, value) for value in values)
    body = b"\x09" + struct.pack("<d", 1.5) + b"\x10" + varint(step) + field(5, summary)
    return record(body)


def simple(tag: str, value: float) -> bytes:
    return field(1, tag.encode()) + b"\x15" + struct.pack("<f", value)


def tensor(tag: str, kind: int, content: bytes, at: int = 4) -> bytes:
    return field(1, tag.encode()) + field(8, b"\x08" + varint(kind) + field(2, b"") + field(at, content))


def read(reader: MetricsFormat, path: Path, content: bytes | str) -> dict[str, Series]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with path.open("rb") as file:
        return {series.name: series for series in reader.read(path, file)}


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("metrics.jsonl", "jsonl"),
        ("train_metrics.ndjson", "jsonl"),
        ("metrics.csv", "csv"),
        ("history.csv", "csv"),
        ("progress.tsv", "csv"),
        ("events.out.tfevents.1700000000.host.1.0", "tensorboard"),
        ("data.csv", ""),
        ("predictions.jsonl", ""),
        ("model.pt", ""),
    ],
)
def test_a_format_knows_its_files_by_name(name: str, format_: str) -> None:
    readers: dict[str, MetricsFormat] = {"jsonl": JsonLines(), "csv": Csv(), "tensorboard": TensorBoard()}
    assert [key for key, reader in readers.items() if reader.fits(Path(name))] == (
        [format_] if format_ else []
    )
    assert readers.keys() == FORMATS.keys()


# --- JSON lines ---


def test_json_lines_give_a_series_for_each_number(tmp_path: Path) -> None:
    lines = [
        {"step": 10, "loss": 0.5, "note": "x", "ok": True},
        {"step": 20, "loss": 0.25, "val": {"acc": 1}},
    ]
    found = read(JsonLines(), tmp_path / "m", "\n".join(map(json.dumps, lines)))
    assert found["loss"] == Series("loss", (10, 20), (0.5, 0.25))
    assert found["val/acc"] == Series("val/acc", (20,), (1,))
    assert set(found) == {"loss", "val/acc"}


def test_without_a_step_the_lines_are_counted(tmp_path: Path) -> None:
    found = read(JsonLines(), tmp_path / "m", '{"loss": 3}\n{"loss": 2}\n{"other": 1}\n{"loss": 1}\n')
    assert found["loss"].steps == (0, 1, 2)


def test_epochs_are_an_axis_and_beside_steps_a_metric(tmp_path: Path) -> None:
    assert read(JsonLines(), tmp_path / "m", '{"epoch": 4, "loss": 3}')["loss"].steps == (4,)
    both = read(JsonLines(), tmp_path / "m", '{"epoch": 4, "step": 9, "loss": 3}')
    assert both["loss"].steps == (9.0,)
    assert both["epoch"].values == (4,)


def test_what_is_no_object_is_passed_over(tmp_path: Path) -> None:
    text = '[1]\n{"loss": 1}\nnot json\n{"loss": NaN}\n{"loss": 1e999}\n{"step": "x", "loss": 2}\n{"loss": 1'
    values = read(JsonLines(), tmp_path / "m", text)["loss"].values
    assert values[0] == 1
    assert math.isnan(values[1])
    assert math.isinf(values[2])
    assert values[3:] == (2,)
    assert read(JsonLines(), tmp_path / "m", b"\xff\xfe\0" + b"[" * 100_000) == {}
    huge = "1" + "0" * 400
    assert read(JsonLines(), tmp_path / "m", f'{{"loss": {huge}}}') == {}


# --- CSV ---


def test_a_table_gives_a_series_for_each_numeric_column(tmp_path: Path) -> None:
    text = "epoch,step,train_loss,name\n0,9,0.5,x\n0,19,,y\n1,29,0.25,z\n"
    found = read(Csv(), tmp_path / "metrics.csv", text)
    assert found["train_loss"] == Series("train_loss", (9, 29), (0.5, 0.25))
    assert found["epoch"].values == (0.0, 0.0, 1.0)
    assert "name" not in found
    assert "step" not in found


def test_a_table_without_an_axis_counts_rows(tmp_path: Path) -> None:
    assert read(Csv(), tmp_path / "m.csv", "loss\n3\n\n2\n")["loss"].steps == (0, 1)
    assert read(Csv(), tmp_path / "m.tsv", "loss\tacc\n3\t1\n")["acc"].values == (1,)


@pytest.mark.parametrize("text", ["", "\n\n", "loss", 'a,b\n"unclosed', "a,b\n1\n", "a\0b,c\n1,2\n"])
def test_a_broken_table_is_no_error(tmp_path: Path, text: str) -> None:
    read(Csv(), tmp_path / "m.csv", text)


def test_an_endless_cell_ends_the_reading(tmp_path: Path) -> None:
    found = read(Csv(), tmp_path / "m.csv", "step,loss\n1,2\n2," + "9" * 200_000 + "\n")
    assert found["loss"].values == (2,)


# --- TensorBoard ---


def test_event_files_of_both_styles_are_read(tmp_path: Path) -> None:
    content = (
        record(b"\x09" + struct.pack("<d", 1.0) + field(3, b"brain.Event:2"))
        + event(1, simple("loss", 0.5), tensor("acc", 1, struct.pack("<f", 0.25)))
        + event(2, simple("loss", 0.25), tensor("acc", 2, struct.pack("<d", 0.75)))
        + event(3, tensor("count", 9, struct.pack("<q", -5)), tensor("listed", 1, struct.pack("<f", 2), at=5))
        + event(4, tensor("wide", 2, struct.pack("<d", 8), at=6), tensor("image", 7, b"\x89PNG"))
    )
    found = read(TensorBoard(), tmp_path / "events.out.tfevents.1", content)
    assert found["loss"] == Series("loss", (1, 2), (0.5, 0.25))
    assert found["acc"] == Series("acc", (1, 2), (0.25, 0.75))
    assert found["count"].values == (-5.0,)
    assert found["listed"].values == (2.0,)
    assert found["wide"].values == (8.0,)
    assert "image" not in found


def test_integers_listed_one_by_one_are_read(tmp_path: Path) -> None:
    single = field(1, b"n") + field(8, b"\x08\x03" + b"\x38\x07")
    packed = field(1, b"p") + field(8, b"\x08\x09" + field(10, varint(300)))
    found = read(TensorBoard(), tmp_path / "e", event(1, single, packed))
    assert found["n"].values == (7.0,)
    assert found["p"].values == (300,)


def test_negative_steps_are_negative(tmp_path: Path) -> None:
    assert read(TensorBoard(), tmp_path / "e", event(-1, simple("loss", 1)))["loss"].steps == (-1,)


@pytest.mark.parametrize(
    "tail",
    [b"\x01", struct.pack("<QI", 1 << 62, 0), struct.pack("<QI", 100, 0) + b"short", record(b"\xff" * 20)],
)
def test_what_came_before_a_damaged_tail_counts(tmp_path: Path, tail: bytes) -> None:
    content = event(1, simple("loss", 0.5)) + tail + event(2, simple("loss", 0.1))
    assert read(TensorBoard(), tmp_path / "e", content)["loss"].values[0] == 0.5


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_an_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "x.csv"
    readers: tuple[MetricsFormat, ...] = (JsonLines(), Csv(), TensorBoard())
    for wrapped in (content, record(content), event(1, content)):
        for reader in readers:
            read(reader, path, wrapped)


def taken_by(reader: MetricsFormat, path: Path) -> tuple[dict[str, Series], int]:
    """What is in a file, and the most memory that reading it took."""
    tracemalloc.start()
    try:
        with path.open("rb") as file:
            found = {series.name: series for series in reader.read(path, file)}
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_a_hostile_metrics_file_takes_no_more_memory_than_an_honest_one(tmp_path: Path) -> None:
    """One line of a gigabyte, names without end, points without end, a table as wide as a line allows."""
    giant = tmp_path / "metrics.jsonl"
    with giant.open("wb") as file:
        file.truncate(1 << 30)
    assert taken_by(JsonLines(), giant)[1] < 20 << 20
    names = tmp_path / "names.jsonl"
    names.write_text("".join(json.dumps({f"m{number}": 1}) + "\n" for number in range(50_000)))
    found, memory = taken_by(JsonLines(), names)
    assert (len(found), memory < 2 << 20) == (300, True)
    points = tmp_path / "points.jsonl"
    points.write_text("".join(f'{{"a": {number % 1000}}}\n' for number in range(60_000)))
    found, memory = taken_by(JsonLines(), points)
    assert memory < 2 << 20
    assert found["a"].points == 60_000
    assert len(found["a"].values) <= 10_000
    assert {min(found["a"].values), max(found["a"].values)} == {0, 999}
    assert (found["a"].steps[0], found["a"].steps[-1]) == (0, 59_999)
    table = tmp_path / "metrics.csv"
    table.write_text("\n".join([",".join(f"c{number}" for number in range(50_000)), *["1," * 500_000] * 3]))
    found, memory = taken_by(Csv(), table)
    assert (len(found), memory < 100 << 20) == (300, True)


def test_a_long_series_keeps_its_peaks_wherever_they_are(tmp_path: Path) -> None:
    values = [0.5] * 60_000
    values[12_345], values[43_210] = -7.0, 9.0
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}, "a": {value}}}\n' for step, value in enumerate(values)))
    with path.open("rb") as file:
        (series,) = JsonLines().read(path, file)
    found = dict(zip(series.steps, series.values, strict=True))
    assert (found[12_345], found[43_210], series.points) == (-7.0, 9.0, 60_000)
    assert list(series.steps) == sorted(series.steps)


def test_a_large_record_of_another_kind_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(event(1, simple("a", 1)) + record(bytes(3 << 20)) + event(2, simple("a", 2)))
    with path.open("rb") as file:
        (series,) = TensorBoard().read(path, file)
    assert series.values == (1, 2)
