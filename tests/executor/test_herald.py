"""Who reports to the Git host: what it says of a run, when, how often, and that nothing stops it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
from executor_house import House, done, story

from pushtrain.adapters.hosts.github_status import GitHubStatuses
from pushtrain.core.lifecycle import (
    Abandoned,
    Cancelled,
    Event,
    Exited,
    Lost,
    Prepared,
    PrepareFailed,
    Published,
    PublishFailed,
    Released,
    Requeued,
)
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.jobspec import JobSpec, ResultsTarget
from pushtrain.core.values.run import Attempt, Run
from pushtrain.core.values.states import Outcome, Reason, State
from pushtrain.core.wire.status import Answer, CommitStatus, Later, Never, Told, Verdict
from pushtrain.executor.results.herald import Herald, Pace
from pushtrain.executor.results.status import context, link, status_of
from pushtrain.executor.service import ExecutorService
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.testing import SENDER, Clock, a_command, a_run, a_spec, an_attempt, eventually
from status_host import TOKEN, Scripted, StatusApi, serving_statuses

OK = Exited(Reason.EXITED, 0, "")
BAD = Exited(Reason.EXITED, 1, "The command ended with exit code 1.")
HERE = Published("c" * 40, "runs/train/2026-09/21-1234567-abcdef01")


class Page:
    """A host that takes everything, or answers as told; it fits `StatusHost`."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []
        self.links: list[str] = []
        self.answers: list[Answer] = []
        self.tries = 0

    def serves(self, key: str) -> bool:
        return key.startswith("github.com/")

    def tell(self, key: str, commit: str, status: CommitStatus) -> Answer:
        assert key
        assert len(commit) == 40
        self.tries += 1
        answer = self.answers.pop(0) if self.answers else Told()
        if answer == Told():
            self.told.append((status.context, status.verdict.value, status.description))
            self.links.append(status.link)
        return answer


class Desk:
    """A store, a herald, a clock: runs are moved by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock, self.ticks = Clock(), Clock(0)
        self.page = Page()
        self.nonces = count()
        self.open()

    def open(self) -> None:
        self.store = Store(self.folder / "store.db", clock=self.clock)
        self.herald = Herald(self.store, self.page, executor="lab-1", clock=self.clock, ticks=self.ticks)

    def accept(self, command: TrainCommand | None = None) -> Run:
        run, _ = self.store.accept(
            command or a_command(),
            sender=SENDER,
            raw=b"{}",
            headers={},
            nonce=f"{next(self.nonces)}",
            nonce_expires=2e9,
            queue_limit=100_000,
        )
        self.herald.hear(run.id)
        return run

    def claim(self) -> tuple[Run, Attempt]:
        claimed = self.store.claim(slots=1000, gpus=(), executor="lab-1")
        assert claimed
        self.herald.hear(claimed[0].id)
        return claimed

    def move(self, run: Run, *events: Event) -> Run:
        for event in events:
            run = self.store.advance(run.id, event)
        self.herald.hear(run.id)
        return run

    def settle(self, seconds: float = 0) -> None:
        """Let time pass, and the herald do all that is due."""
        self.clock.advance(seconds)
        self.ticks.advance(seconds)
        while self.herald.step() == 0:
            pass


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.store.close()


# --- what is said ------------------------------------------------------------------------------------------


def test_a_run_is_told_from_its_queue_to_its_report(desk: Desk) -> None:
    run = desk.accept()
    desk.settle(2)
    run, _ = desk.claim()
    desk.settle(2)
    desk.move(run, Prepared())
    desk.settle(2)
    desk.move(run, OK)
    desk.settle()
    desk.move(run, HERE)
    desk.settle()
    assert desk.page.told == [
        ("pushtrain/train", "pending", "queued on lab-1"),
        ("pushtrain/train", "pending", "preparing on lab-1"),
        ("pushtrain/train", "pending", "running on lab-1"),
        ("pushtrain/train", "success", "succeeded on lab-1"),
    ]
    report = "https://github.com/octo/hello/tree/pushtrain/results/runs/train/2026-09/21-1234567-abcdef01"
    assert desk.page.links == ["", "", "", report]
    assert desk.store.status_told(run.id)[1]


def test_a_short_run_is_one_request(desk: Desk) -> None:
    desk.accept()
    desk.settle(0.3)
    run, _ = desk.claim()
    desk.settle(0.3)
    desk.move(run, Prepared(), OK, HERE)
    desk.settle()
    desk.settle(600)
    assert [state for _, state, _ in desk.page.told] == ["success"]
    assert desk.page.tries == 1


def test_a_station_that_others_overtake_is_told_in_time_all_the_same(desk: Desk) -> None:
    desk.accept()
    for _ in range(3):  # each change within the second of the last one
        desk.settle(0.6)
        desk.claim() if not desk.store.active() else None
    assert len(desk.page.told) == 1


@pytest.mark.parametrize(
    ("events", "verdict", "words"),
    [
        ((Prepared(), BAD), "failure", "failed on lab-1: the command ended with exit code 1"),
        ((Prepared(), Exited(Reason.TIMEOUT, None, "Too long.")), "failure", "failed (timeout) on lab-1"),
        ((Prepared(), Exited(Reason.SETUP, 2, "No setup.")), "failure", "failed on lab-1: no setup"),
        ((PrepareFailed(Reason.DATA, "secret path"),), "error", "failed on lab-1: data"),
        ((Prepared(), Lost("gone")), "error", "lost on lab-1"),
        ((Cancelled("by ada"),), "error", "cancelled on lab-1"),
    ],
)  # fmt: skip
def test_what_went_wrong_is_told_in_the_hosts_words(
    desk: Desk, events: tuple[Event, ...], verdict: str, words: str
) -> None:
    desk.accept()
    run, _ = desk.claim()
    desk.move(run, *events, HERE)
    desk.settle()
    assert desk.page.told == [("pushtrain/train", verdict, words)]


def test_a_run_cancelled_in_the_queue_says_so(desk: Desk) -> None:
    run = desk.accept()
    desk.store.request_cancel(run.id, by="ada")
    desk.move(run, HERE)
    desk.settle()
    assert desk.page.told == [("pushtrain/train", "error", "cancelled before it started")]


def test_another_attempt_is_told(desk: Desk) -> None:
    desk.accept()
    run, _ = desk.claim()
    desk.move(run, Requeued(Reason.INTERRUPTED))
    desk.settle(2)
    run, _ = desk.claim()
    desk.settle(2)
    told = [words for _, _, words in desk.page.told]
    assert told == ["queued again on lab-1, interrupted", "preparing on lab-1, attempt 2"]


def test_a_report_that_is_late_does_not_hold_up_the_verdict(desk: Desk) -> None:
    desk.accept()
    run, _ = desk.claim()
    run = desk.move(run, Prepared(), OK)
    desk.settle(5)
    assert desk.page.told == []  # publishing is about to end
    desk.move(run, PublishFailed("no network", desk.clock() + 1))
    desk.settle()
    desk.move(run, PublishFailed("no network", desk.clock() + 2))
    desk.settle(60)
    desk.move(run, HERE)
    desk.settle()
    assert [words for _, _, words in desk.page.told] == [
        "succeeded on lab-1; its report is not published yet",
        "succeeded on lab-1",
    ]


def test_a_report_that_was_given_up_is_not_linked(desk: Desk) -> None:
    desk.accept()
    run, _ = desk.claim()
    desk.move(run, Prepared(), OK, PublishFailed("no", 0), Abandoned("enough"))
    desk.settle()
    assert desk.page.told == [("pushtrain/train", "success", "succeeded on lab-1; its report was given up")]
    assert desk.page.links == [""]


def test_a_run_that_moved_is_somebody_elses_to_tell_of(desk: Desk) -> None:
    run = desk.accept()
    desk.move(run, Released("to lab-2"))
    desk.settle(5)
    assert desk.page.told == []
    assert desk.store.status_told(run.id) == ("", True)


def test_each_cell_of_a_matrix_has_a_line_of_its_own(desk: Desk) -> None:
    for lr in (0.1, 0.2):
        desk.accept(a_command(job=a_spec(cell={"lr": lr})))
    desk.settle(2)
    assert [line for line, _, _ in desk.page.told] == ["pushtrain/train (lr=0.1)", "pushtrain/train (lr=0.2)"]


def test_a_repository_elsewhere_is_not_told_of(desk: Desk) -> None:
    desk.accept(a_command(repository="localhost/srv/x"))
    desk.settle(5)
    assert desk.page.tries == 0


# --- words and addresses -----------------------------------------------------------------------------------


def published(command: TrainCommand | None = None, **changes: object) -> Run:
    ended: dict[str, Any] = {"state": State.DONE, "outcome": Outcome.SUCCEEDED, "result_commit": "c" * 40}
    return a_run(command, **{"result_path": "p q/r", **ended, **changes})


def test_how_long_it_trained_is_told() -> None:
    attempt = an_attempt(started_at=100.0, ended_at=345.0)
    found = status_of(published(), attempt, executor="lab-1")
    assert found
    assert found.description == "succeeded after 4 min 05 s on lab-1"


def test_long_names_and_sentences_fit_and_stay_apart() -> None:
    lines = set()
    for end in "ab":
        job = a_spec(cell={"words": "x" * 400 + end})
        run = published(a_command(job=job))
        lines.add(context(run))
    assert len(lines) == 2
    assert all(len(line) == 255 for line in lines)
    talkative = published(outcome=Outcome.FAILED, reason=Reason.EXITED, detail="Nope\n" * 100)
    found = status_of(talkative, an_attempt(), executor="lab-1")
    assert found
    assert len(found.description) == 140
    assert "\n" not in found.description


@pytest.mark.parametrize(
    ("target", "address"),
    [
        (ResultsTarget(), "https://github.com/octo/hello/tree/pushtrain/results/p%20q/r"),
        (ResultsTarget(branch="same"), "https://github.com/octo/hello/tree/main/p%20q/r"),
        (ResultsTarget(branch="a#b"), "https://github.com/octo/hello/tree/a%23b/p%20q/r"),
        (ResultsTarget(repository="gitlab.com/octo/runs"), ""),
        (ResultsTarget(repository="github.com/octo/runs"), "https://github.com/octo/runs/tree/pushtrain/results/p%20q/r"),
    ],
)  # fmt: skip
def test_the_report_is_linked_where_it_was_published(target: ResultsTarget, address: str) -> None:
    job: JobSpec = a_spec(results_to=target)
    assert link(published(command=a_command(job=job))) == address


# --- once, and in the end ----------------------------------------------------------------------------------


def test_nothing_is_told_twice_also_after_a_restart(desk: Desk) -> None:
    desk.accept()
    desk.settle(2)
    run, _ = desk.claim()
    desk.settle(2)
    desk.store.close()
    desk.open()
    desk.settle(2)
    assert desk.page.tries == 2
    desk.move(run, Prepared(), OK, HERE)
    desk.store.close()  # the executor dies before the host hears
    desk.open()
    desk.settle()
    assert [state for _, state, _ in desk.page.told] == ["pending", "pending", "success"]
    desk.store.close()
    desk.open()
    desk.settle(700)
    assert desk.page.tries == 3


def test_a_new_token_does_not_tell_of_old_runs(desk: Desk) -> None:
    desk.accept()
    run, _ = desk.claim()
    for event in (Prepared(), OK, HERE):
        desk.store.advance(run.id, event)
    desk.clock.advance(2 * 86_400)
    desk.store.close()
    desk.open()
    desk.settle()
    assert desk.page.tries == 0


def test_what_the_host_does_not_take_is_tried_again_later_each_time(desk: Desk) -> None:
    desk.page.answers = [Later("HTTP 500")] * 3
    run = desk.accept()
    tries = []
    for _ in range(40):
        desk.settle(1)
        tries.append(desk.page.tries)
    assert desk.page.told == [("pushtrain/train", "pending", "queued on lab-1")]
    gaps = [tries.index(number) for number in (1, 2, 3, 4)]
    assert [later - before for before, later in pairwise(gaps)] == [2, 4, 8]
    assert desk.store.status_told(run.id)[0]


def test_the_host_is_asked_nothing_for_as_long_as_it_wishes(desk: Desk) -> None:
    desk.page.answers = [Later("slow down", wait=300)]
    desk.accept()
    desk.settle(2)
    desk.accept(a_command(commit="a" * 40))
    desk.settle(290)
    assert desk.page.tries == 1
    desk.settle(20)
    assert len(desk.page.told) == 2


@pytest.mark.parametrize("answer", [Later("down", wait=60), Later("no right", wait=60, everywhere=False)])
def test_a_clock_that_is_set_back_an_hour_keeps_no_status_waiting(desk: Desk, answer: Later) -> None:
    desk.page.answers = [answer]
    desk.accept()
    desk.settle(2)
    desk.accept(a_command(commit="a" * 40))
    desk.clock.advance(-3600)
    desk.settle(50)
    assert desk.page.tries == 1
    desk.settle(10)
    assert len(desk.page.told) == 2
    for number in range(90):
        desk.accept(a_command(commit=f"{number:040x}"))
    desk.settle(2)
    desk.clock.advance(-3600)
    for _ in range(3):
        desk.settle(61)
    assert len(desk.page.told) == 92


def test_a_repository_that_the_token_does_not_see_holds_up_no_other(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.page.answers = [Later("not seen", "Give it the right.", 3600, everywhere=False)]
    desk.accept(a_command(repository="github.com/octo/hidden"))
    desk.settle(2)
    desk.accept()
    desk.accept(a_command(repository="github.com/octo/hidden", commit="a" * 40))
    desk.settle(2)
    assert len(desk.page.told) == 1
    assert caplog.text.count("Give it the right") == 1
    desk.settle(3600)
    assert len(desk.page.told) == 3


def test_trouble_is_logged_once_not_at_every_try(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.page.answers = [Later("HTTP 502")] * 5
    desk.accept()
    for _ in range(200):
        desk.settle(1)
    assert len(desk.page.told) == 1
    assert caplog.text.count("HTTP 502") == 1


def test_a_status_that_is_refused_for_good_is_left(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.page.answers = [Never("No commit found for SHA")]
    desk.accept()
    desk.settle(2)
    desk.settle(700)
    assert desk.page.tries == 1
    assert "No commit found" in caplog.text


def test_what_nobody_took_for_a_day_is_given_up(desk: Desk) -> None:
    desk.page.answers = [Later("HTTP 500")] * 10_000
    desk.accept()
    run, _ = desk.claim()
    desk.move(run, Prepared(), OK, HERE)
    desk.settle()
    desk.settle(90_000)
    tries = desk.page.tries
    desk.settle(90_000)
    assert desk.page.tries == tries
    assert desk.store.status_told(run.id) == ("", True)


def test_a_rerun_speaks_for_its_job_from_then_on(desk: Desk) -> None:
    first = desk.accept()
    desk.settle(2)
    claimed, _ = desk.claim()
    desk.accept(a_command(request="again"))
    desk.settle(2)
    desk.move(claimed, Prepared(), BAD, HERE)
    desk.settle(5)
    assert {state for _, state, _ in desk.page.told} == {"pending"}
    assert desk.store.status_told(first.id)[1]
    again, _ = desk.claim()
    desk.move(again, Prepared(), OK, HERE)
    desk.settle()
    assert desk.page.told[-1][1] == "success"


@pytest.mark.parametrize(("first", "second"), [("", "again"), ("by-hand", ""), ("one", "two")])
def test_the_newer_of_two_runs_of_a_job_is_known_in_either_order(desk: Desk, first: str, second: str) -> None:
    older = desk.accept(a_command(request=first))
    other = desk.accept(a_command(request=second, job=a_spec(cell={"lr": 1})))
    assert not desk.store.run_again(older)
    newer = desk.accept(a_command(request=second))
    assert [desk.store.run_again(run) for run in (older, other, newer)] == [True, False, False]


# --- the host's limits -------------------------------------------------------------------------------------


def test_a_great_matrix_stays_below_what_the_host_allows(desk: Desk) -> None:
    for number in range(256):
        desk.accept(a_command(job=a_spec(cell={"seed": number})))
    sent: list[float] = []
    end = desk.clock() + 3 * 3600
    ended = False
    while desk.clock() < end:
        before = desk.page.tries
        desk.settle(1)
        sent += [desk.clock()] * (desk.page.tries - before)
        if len(sent) > 100 and not ended:
            ended = True
            while claimed := desk.store.claim(slots=1000, gpus=(), executor="lab-1"):
                desk.move(claimed[0], Prepared(), OK, HERE)
    for span, most in ((60, 80), (3600, 500)):
        assert max(sum(1 for other in sent if at <= other < at + span) for at in sent) <= most
    assert sum(state == "success" for _, state, _ in desk.page.told) == 256
    pending = sum(state == "pending" for _, state, _ in desk.page.told)
    assert pending == 120  # what was overtaken is never told


def test_verdicts_go_before_stations(desk: Desk) -> None:
    for number in range(200):
        desk.accept(a_command(job=a_spec(cell={"seed": number})))
    desk.settle(2)
    assert desk.page.tries == 40  # half of a minute's share
    run, _ = desk.claim()
    desk.move(run, Prepared(), OK, HERE)
    desk.settle()
    assert desk.page.told[-1][1] == "success"


def test_the_pace_is_exact() -> None:
    pace = Pace()
    for number in range(80):
        assert pace.wait(number * 0.1) == 0
        pace.sent(number * 0.1)
    assert pace.wait(8) == pytest.approx(52)
    assert pace.wait(60) == 0
    assert pace.wait(8, 0.5) == pytest.approx(4.0 + 60 - 8)


# --- beside a working executor -----------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def heralded(house: House, api: StatusApi) -> AsyncIterator[ExecutorService]:
    github = GitHubStatuses(api.url, TOKEN)
    github.host = "github.com"  # whose stand-in the server is
    async with house.running() as service:
        herald = Herald(service.store, github, executor="lab-1")
        service.subscribe(herald.hear)
        task = asyncio.create_task(herald.run())
        try:
            yield service
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            github.close()


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


@story
async def test_a_real_run_is_told_to_a_real_server_and_the_token_is_nowhere_else(tmp_path: Path) -> None:
    house = House(tmp_path)
    with serving_statuses() as api:
        api.script.append(Scripted(502))
        async with heralded(house, api) as service:
            run = await done(service, house.send(service, "env; exit 3"))
            await eventually(lambda: api.got)
    assert [got.short for got in api.got] == [("pushtrain/train", "failure", api.got[0].short[2])]
    assert "exit code 3" in api.got[0].short[2]
    assert api.got[0].path.endswith(f"/statuses/{run.command.commit}")
    assert api.got[0].body["target_url"].endswith(f"/tree/pushtrain/results/{run.result_path}")
    assert TOKEN.encode() not in b"".join(contents(tmp_path))


@story
async def test_a_host_that_hangs_delays_no_run(tmp_path: Path) -> None:
    house = House(tmp_path)
    with serving_statuses() as api:
        async with heralded(house, api) as service:
            api.gate.clear()
            await done(service, house.send(service, "true"))
            await eventually(lambda: api.asked)
            second = await done(service, house.send(service, "true", name="other"))
            assert (second.outcome, api.got) == (Outcome.SUCCEEDED, [])
            api.gate.set()
            await eventually(lambda: len(api.got) == 2)


def test_a_defect_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(tmp_path)

    async def story_() -> None:
        desk.page.answers = [None]  # type: ignore[list-item]  # what no host says
        desk.accept()
        desk.clock.advance(5)
        task = asyncio.create_task(desk.herald.run())
        await eventually(lambda: desk.page.tries)
        desk.store.close()
        desk.herald.hear("0" * 32)
        await eventually(lambda: "could not be reported" in caplog.text)
        assert not task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(story_())


def test_every_verdict_of_ours_is_one_of_the_hosts() -> None:
    assert {verdict.value for verdict in Verdict} == {"pending", "success", "failure", "error"}
