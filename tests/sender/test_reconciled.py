"""Each watched branch's tip has its runs within two minutes, whatever becomes of webhooks and history.

The sender and its reconciler are the real ones, over a real store; only the Git host is a stand-in, and time
is virtual, so that days pass in a moment.
"""

import asyncio
import contextlib
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pushtrain.core.errors import GitError, NotFound
from pushtrain.core.settings import Repository, SenderSettings
from pushtrain.core.values.push import NO_COMMIT, Push
from pushtrain.plumbing.git.commits import CommitInfo
from pushtrain.plumbing.git.complaint import RateLimited
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.plumbing.sqlite.view import View
from pushtrain.ports import Stop
from pushtrain.sender.poll import Reconciler
from pushtrain.sender.service import SenderService
from pushtrain.testing import NOON
from virtual_time import VirtualLoop

if TYPE_CHECKING:
    from pushtrain.plumbing.git.mirror import Mirror

T = TypeVar("T")

PROMISED = 120.0
"""Seconds within which a tip has its runs."""
KEY = "git.example.org/octo/hello"
DAY = 86_400.0
REFS = ("refs/heads/main", "refs/heads/dev", "refs/heads/pushtrain/results")
JOBS = b'[job.train]\ncommand = "python train.py"\n'
KINDS = {"job": JOBS, "broken": b"[job.train\n", "nothing": None}


@dataclass(frozen=True)
class Commit:
    """One commit at the host."""

    parents: tuple[str, ...]
    kind: str


@dataclass
class FakeHost:
    """Stands in for a Git host behind `Mirror`: refs, history, and whether it answers."""

    remote: Repository = field(default_factory=lambda: Repository(key=KEY, remote="/nowhere"))
    refs: dict[str, str] = field(default_factory=dict)
    made: dict[str, Commit] = field(default_factory=dict)
    away: bool = False
    wish: float = 0
    """Seconds for which it asks to be left alone."""
    looks: int = 0
    fetched: set[tuple[str, str]] = field(default_factory=set)

    def commit(self, parent: str, kind: str) -> str:
        """A new commit."""
        name = f"{len(self.made) + 1:040x}"
        self.made[name] = Commit((parent,) if parent else (), kind)
        return name

    def history(self, commit: str) -> set[str]:
        """A commit and everything before it."""
        found: set[str] = set()
        left = [commit]
        while left:
            name = left.pop()
            if name not in found:
                found.add(name)
                left += self.made[name].parents
        return found

    # --- as `Mirror`

    def ls_remote(self, *, stop: Stop | None = None) -> dict[str, str]:
        self.looks += 1
        self._answer(stop)
        if self.wish:
            raise RateLimited("Too many requests.", after=self.wish)
        return dict(self.refs)

    def fetch(self, ref: str, commit: str, *, stop: Stop | None = None) -> bool:
        if (ref, commit) in self.fetched:
            return False
        self._answer(stop)
        if ref not in self.refs or commit not in self.history(self.refs[ref]):
            raise NotFound(f"{KEY} has no commit {commit[:12]} on {ref} (any more).")
        self.fetched.add((ref, commit))
        return True

    def read(self, ref: str, commit: str, look: Callable[[], T], *, stop: Stop | None = None) -> T:
        self.fetch(ref, commit, stop=stop)
        return look()

    @property
    def commits(self) -> "FakeCommits":
        return FakeCommits(self.made)

    def _answer(self, stop: Stop | None) -> None:
        if stop is not None:
            stop()
        if self.away:
            raise GitError("git could not reach it: Connection refused.")


@dataclass
class FakeCommits:
    """What is read of commits that are here."""

    made: dict[str, Commit]

    def read(self, commit: str, paths: Sequence[str] = ()) -> tuple[CommitInfo, dict[str, bytes | None]]:
        found = self.made[commit]
        files = {"pushtrain.toml": KINDS[found.kind]}
        info = CommitInfo(commit, "A change", "Ada", 0, found.parents)
        return info, {path: files.get(path) for path in paths}

    def changed(self, before: str, after: str) -> list[str] | None:
        return None if before == after else ["train.py"]


class Reconciled(RuleBasedStateMachine):
    """Pushes, webhooks that come or not, a sender and a host that are there or not, and time."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.loop = VirtualLoop()
        self.chance = random.Random(0)  # noqa: S311  spreads retries
        self.host = FakeHost()
        self.store: Store | None = None
        self.service: SenderService | None = None
        self.tasks: list[asyncio.Task[None]] = []
        self.undelivered: list[Push] = []
        self.delivered: list[Push] = []
        self.announced: list[tuple[str, str | None]] = []
        """Pushes whose webhook is out before the host gives the commit out."""
        self.pushed: set[str] = set()
        self.moved: set[str] = set()
        """Refs that moved since the reconciler saw them first."""
        self.deliveries = 0

    # --- the sender

    def clock(self) -> float:
        return NOON + self.loop.time()

    @initialize(branch=st.sampled_from(REFS), there=st.booleans())
    def begin(self, branch: str, there: bool) -> None:
        if there:
            self.host.refs[branch] = self.host.commit("", "job")
            self.pushed.add(self.host.refs[branch])
        self.start_sender()

    @precondition(lambda self: self.service is None)
    @rule()
    def start_sender(self) -> None:
        self.store = Store(Path(self.folder.name) / "store.db", clock=self.clock)
        mirror = cast("Mirror", self.host)
        self.service = SenderService(
            [self.host.remote],
            self.store,
            lambda _: mirror,
            list,
            clock=self.clock,
            ticks=self.loop.time,
            jitter=self.chance.random,
        )
        poll = SenderSettings().poll_seconds
        reconciler = Reconciler(self.service, poll, jitter=self.chance.random)
        self.tasks = [self.loop.create_task(work) for work in (self.service.run(), reconciler.run())]
        self.let(0.001)

    @precondition(lambda self: self.service is not None)
    @rule()
    def stop_sender(self) -> None:
        for task in self.tasks:
            task.cancel()

        async def ended() -> None:
            await asyncio.wait(self.tasks)

        self.loop.run_until_complete(ended())
        assert self.store is not None
        self.store.close()
        self.service, self.store = None, None

    @rule(seconds=st.sampled_from([0.001, 1.0, 30.0, 61.0, 600.0]))
    def let(self, seconds: float) -> None:
        """Let time pass."""
        self.loop.pass_time(seconds)
        assert all(not task.done() for task in self.tasks) or self.service is None

    @rule()
    def a_day(self) -> None:
        self.loop.pass_time(DAY if self.service is None else 3600)

    # --- the host

    @rule()
    def host_goes(self) -> None:
        self.host.away = True

    @rule()
    def host_comes(self) -> None:
        self.host.away = False

    # --- people

    @rule(
        ref=st.sampled_from(REFS),
        kind=st.sampled_from(["job", "job", "broken", "nothing"]),
        count=st.integers(1, 3),
        webhook=st.sampled_from(["soon", "late", "early", "much too early", "never"]),
    )
    def push(self, ref: str, kind: str, count: int, webhook: str) -> None:
        """Push some commits on top of a branch, or make it; hosts may tell of it before they give it out."""
        tip = self._latest(ref)
        for _ in range(count):
            tip = self.host.commit(tip, kind)
        self._move(ref, tip, early=webhook.endswith("early"))
        if webhook == "never":
            self.undelivered.pop()
        elif webhook != "late":
            self._deliver(self.undelivered.pop())
            self.let(1.0)
        if webhook == "early":
            self.the_host_gives_out_what_it_announced()

    @rule(ref=st.sampled_from(REFS), seconds=st.sampled_from([1.0, 70.0, 600.0]))
    def push_whose_commit_the_host_does_not_give_out_for_a_while(self, ref: str, seconds: float) -> None:
        self.host_goes()
        self.push(ref, "job", 1, "soon")
        self.let(seconds)
        self.host_comes()

    @rule(ref=st.sampled_from(REFS[:2]))
    def push_whose_webhook_is_a_moment_early(self, ref: str) -> None:
        self.host_comes()
        self.push(ref, "job", 1, "early")

    @rule(ref=st.sampled_from(REFS), data=st.data())
    def rewrite(self, ref: str, data: st.DataObject) -> None:
        """Force a branch to any commit that ever was, or to a sibling of its tip."""
        if self._latest(ref):
            old = data.draw(st.sampled_from(sorted(self.host.made)))
            new = self.host.commit(next(iter(self.host.made[self._latest(ref)].parents), ""), "job")
            self._move(ref, data.draw(st.sampled_from([old, new])), early=False)

    @rule(ref=st.sampled_from(REFS))
    def delete(self, ref: str) -> None:
        if self._latest(ref):
            self._move(ref, None, early=False)

    @rule()
    def the_host_gives_out_what_it_announced(self) -> None:
        for ref, commit in self.announced:
            self._set(ref, commit)
        self.announced.clear()

    # --- webhooks

    @precondition(lambda self: self.undelivered)
    @rule(data=st.data(), lost=st.booleans())
    def webhook(self, data: st.DataObject, lost: bool) -> None:
        """Any of those that are under way arrives, or never does."""
        push = self.undelivered.pop(data.draw(st.integers(0, len(self.undelivered) - 1)))
        if not lost:
            self._deliver(push)

    @precondition(lambda self: self.delivered)
    @rule(data=st.data())
    def webhook_again(self, data: st.DataObject) -> None:
        self._deliver(data.draw(st.sampled_from(self.delivered)))

    # --- what holds

    @invariant()
    def nothing_is_started_twice_and_nothing_that_was_never_pushed(self) -> None:
        if self.store is not None:
            started = [out.command.commit for out in self.store.outbox(limit=1000)]
            assert len(started) == len(set(started))
            assert set(started) <= self.pushed
            assert all(self.host.made[commit].kind == "job" for commit in started)

    @rule()
    def calm(self) -> None:
        """Once sender and host are there, every tip has its runs within the time that is promised."""
        self.the_host_gives_out_what_it_announced()
        self.host_comes()
        if self.service is None:
            self.start_sender()
        self.loop.pass_time(PROMISED)
        assert self.store is not None
        watched = {ref: commit for ref, commit in self.host.refs.items() if ref != REFS[2]}
        noted = {ref: commit for ref, commit in self.store.tips(KEY).items() if ref}
        assert noted == watched, "where every branch really is, whichever push was told of last"
        started = {out.command.commit for out in self.store.outbox(limit=1000)}
        for ref in self.moved & watched.keys():
            if self.host.made[watched[ref]].kind == "job":
                assert watched[ref] in started, f"the tip of {ref} has no run"

    def teardown(self) -> None:
        try:
            self.calm()
        finally:
            self.end()

    def end(self) -> None:
        if self.service is not None:
            self.stop_sender()
        self.loop.close()
        self.folder.cleanup()

    # --- helpers

    def _latest(self, ref: str) -> str:
        """Where a ref is, as people see it: what was announced counts."""
        told = [commit for name, commit in self.announced if name == ref]
        return (told[-1] if told else self.host.refs.get(ref)) or ""

    def _move(self, ref: str, commit: str | None, *, early: bool) -> None:
        self.deliveries += 1
        before = self._latest(ref) or NO_COMMIT
        host, _, name = KEY.partition("/")
        push = Push(
            host=host,
            repository=name,
            ref=ref,
            before=before,
            after=commit or NO_COMMIT,
            delivery=f"d{self.deliveries}",
        )
        self.undelivered.append(push)
        if early or self.announced:
            self.announced.append((ref, commit))
        else:
            self._set(ref, commit)

    def _set(self, ref: str, commit: str | None) -> None:
        if self.host.refs.get(ref) == commit:
            return
        if commit is None:
            del self.host.refs[ref]
        else:
            self.host.refs[ref] = commit
            if ref != REFS[2]:
                self.pushed |= self.host.history(commit)
        self.moved.discard(ref)
        if self._seen_before():
            self.moved.add(ref)

    def _seen_before(self) -> bool:
        """Whether the reconciler has had its first look."""
        if self.store is not None:
            return "" in self.store.tips(KEY)
        with contextlib.closing(View(Path(self.folder.name) / "store.db")) as store:
            return "" in store.tips(KEY)

    def _deliver(self, push: Push) -> None:
        """The webhook's door: while the sender is off nobody opens."""
        if self.service is not None:
            self.service.hear(push, source="webhook")
            self.delivered.append(push)


def test_every_tip_has_its_runs_within_two_minutes_whatever_happens() -> None:
    phases = (Phase.explicit, Phase.reuse, Phase.generate)  # to shrink what fails takes minutes
    chosen = settings(
        max_examples=40,
        stateful_step_count=20,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=phases,
    )
    run_state_machine_as_test(Reconciled, settings=chosen)


def test_a_host_that_asks_for_fewer_requests_is_not_looked_at_before_its_time() -> None:
    machine = Reconciled()
    try:
        machine.host.wish = 900
        machine.begin(REFS[0], there=True)
        machine.let(890)
        assert machine.host.looks == 1
        machine.host.wish = 0
        machine.let(20)
        assert machine.host.looks == 2
        machine.let(100)
        assert machine.host.looks > 2
    finally:
        machine.end()
