"""`pushtrain usage`: the ledger, asked of executors and of one's own folder."""

import json
from pathlib import Path

import pytest

from pushtrain.cli import usage
from pushtrain.cli.connect import Answer, Nobody
from pushtrain.cli.screen import render
from pushtrain.core.errors import Unreachable
from pushtrain.core.lifecycle import Exited, Prepared
from pushtrain.core.owner.verdict import Why
from pushtrain.core.runs.usage import Entry, Stood, Usage, Used
from pushtrain.core.values.run import GpuUse
from pushtrain.core.values.states import Reason
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.testing import SENDER, a_command
from pushtrain.wiring.settings import open_state


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    render.console.cache_clear()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Usage]:
    """What two executors tell."""
    hour = Used(attempts=2, seconds=3600, gpu_seconds=7200, cpu_seconds=60, joules=3_600_000, waited=90)
    guess = hour.model_copy(update={"estimated": True, "gpu_seconds": 1800, "joules": 90_000})
    one = Usage(
        executor="lab-1",
        days=30,
        entries=(
            Entry(sender="SHA256:aa", repository="h/a", used=hour),
            Entry(sender="SHA256:bb", repository="h/b", used=guess),
        ),
        names={"SHA256:aa": "ada", "SHA256:bb": "[bold]bo"},
        stood=(Stood(what="lent", seconds=30), Stood(what="input", seconds=10, wanted=5)),
    )
    two = Usage(
        executor="lab-2",
        days=30,
        entries=(Entry(sender="SHA256:aa", repository="h/b", used=hour),),
        names={"SHA256:aa": "ada"},
    )
    answers = [one, two]
    monkeypatch.setattr(
        usage, "_told", lambda *_: ({one.executor: one for one in answers}, ["lab-3: it does not answer."])
    )
    return answers


@pytest.mark.usefixtures("told")
def test_a_persons_use_is_summed_over_executors(capsys: pytest.CaptureFixture[str]) -> None:
    usage.usage()
    said = capsys.readouterr()
    lines = said.out.splitlines()
    ada = next(line for line in lines if line.lstrip().startswith("ada"))
    assert ada.split("  ")[0].strip() == "ada"
    assert "4 h 00 m" in ada  # two hours at each of two executors
    assert "2.00 kWh" in ada
    assert "[bold]bo" in said.out  # a name is no markup
    assert "~25.0 Wh" in said.out
    assert "~2.02 kWh" in next(line for line in lines if "in all" in line)
    assert "pushtrain: lab-3: it does not answer." in said.err


@pytest.mark.usefixtures("told")
def test_what_was_lent_and_what_was_borrowed_is_told_in_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """lab-1 is one's own: its owner alone is told how it stood. One's own use of it is neither."""
    monkeypatch.setattr(usage, "own_id", lambda _: "SHA256:aa")
    usage.usage()
    said = capsys.readouterr().out
    assert "You lent 30 m 00 s of GPU time to others, and borrowed 2 h 00 m of GPU time from them." in said
    assert next(line for line in said.splitlines() if "4 h 00 m" in line).startswith("you ")
    monkeypatch.setattr(usage, "own_id", lambda _: "SHA256:cc")
    usage.usage()
    assert "to others, and borrowed nothing from them." in capsys.readouterr().out


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize(("by", "first"), [("repository", "h/b"), ("executor", "lab-1")])
def test_it_is_summed_by_what_was_asked_the_largest_first(
    capsys: pytest.CaptureFixture[str], by: str, first: str
) -> None:
    usage.usage(by=by)  # type: ignore[arg-type]
    header, _, row, *_ = capsys.readouterr().out.splitlines()[2:]
    assert header.startswith(by)
    assert row.startswith(first)


@pytest.mark.usefixtures("told")
def test_the_owner_is_told_what_the_cards_did(capsys: pytest.CaptureFixture[str]) -> None:
    usage.usage()
    said = capsys.readouterr().out
    assert "What lab-1 did" in said
    assert "What lab-2 did" not in said
    kept = next(line for line in said.splitlines() if "you were at it" in line)
    assert "25 %" in kept
    assert "5.0 s" in kept


def test_scripts_get_everything(told: list[Usage], capsys: pytest.CaptureFixture[str]) -> None:
    usage.usage(json=True)
    found = json.loads(capsys.readouterr().out)
    assert [Usage.model_validate(one) for one in found] == told


def test_every_reason_has_words_for_the_owner() -> None:
    assert set(usage._KEPT) == set(Why)


def test_a_folder_whose_executor_does_not_run_tells_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = open_state(tmp_path / "state")
    store = Store(folder.store)
    command = a_command()
    store.accept(command, sender=SENDER, raw=b"", headers={}, nonce="n", nonce_expires=9e9, queue_limit=9)
    claimed = store.claim(slots=1, gpus=(), executor="lab-1")
    assert claimed is not None
    run, attempt = claimed
    store.advance(run.id, Prepared())
    used = attempt.model_copy(update={"gpu": GpuUse(seconds=120)})
    store.advance(run.id, Exited(Reason.EXITED, 0), attempt=used)
    store.close()

    def nobody(*_: object, **__: object) -> object:
        raise Nobody("No executor is known here.")

    monkeypatch.setattr(usage, "everyone", nobody)
    usage.usage(state=tmp_path / "state")
    said = capsys.readouterr().out
    assert "2 m 00 s" in said
    assert "You lent 2 m 00 s of GPU time to others, and borrowed nothing from them." in said
    monkeypatch.setattr(usage, "own_id", lambda _: SENDER)
    usage.usage(state=tmp_path / "state")
    assert "borrowed" not in capsys.readouterr().out, "one's own, of a machine that tells of no cards"


def test_where_nobody_tells_anything_it_is_an_error_not_an_empty_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Client:
        id = "SHA256:x"

    class Known:
        clients = (Client(),)
        listed = ()

        def name(self, _: object) -> str:
            return "lab-9"

    monkeypatch.setattr(usage, "everyone", lambda *_, **__: Known())
    monkeypatch.setattr(
        usage, "ask_all", lambda *_: [Answer(Client(), None, Unreachable("it does not answer"))]
    )
    with pytest.raises(Unreachable, match="lab-9: it does not answer"):
        usage.usage(state=tmp_path / "state")


def test_a_senders_folder_counts_as_no_executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(open_state(tmp_path / "state").store).close()

    def nobody(*_: object, **__: object) -> object:
        raise Nobody("No executor is known here.")

    monkeypatch.setattr(usage, "everyone", nobody)
    with pytest.raises(Nobody):
        usage.usage(state=tmp_path / "state")
