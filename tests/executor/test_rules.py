"""The owner's rules at the real door: who tries to get round one sends a signed command, and nothing runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruled import OTHER, Lab, ran

from pushtrain.core.errors import BeyondLimits, Forbidden, Refused
from pushtrain.core.owner.rules import Allow, Limits, Rules
from pushtrain.core.runs import retry
from pushtrain.core.values.jobspec import Resources, ResultsTarget
from pushtrain.core.values.states import Outcome, Reason, State
from pushtrain.core.wire.signing import fingerprint
from pushtrain.testing import REPOSITORY
from status_host import TOKEN, Scripted, StatusApi, serving_statuses

# --- rules.allow ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def picky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """An owner who lists what may run."""
    allow = (
        Allow(repository=REPOSITORY, branches=("main", "release/**"), tags=("v*",), senders=("ada",)),
        Allow(repository=REPOSITORY, branches=("dev",), tags=()),
    )
    with Lab(tmp_path_factory.mktemp("picky"), Rules(allow=allow)).open() as lab:
        yield lab


def test_what_an_entry_allows_runs(picky: Lab) -> None:
    view = picky.done(picky.send())
    assert (view.run.outcome, picky.log(view.run)) == (Outcome.SUCCEEDED, "the job ran\n")


@pytest.mark.parametrize("ref", ["refs/heads/topic", "refs/heads/Main", "refs/heads/x/main"])
def test_a_branch_that_is_not_listed_is_refused_at_the_door(picky: Lab, ref: str) -> None:
    refusal = picky.refusal(picky.command(ref=ref))
    assert isinstance(refusal, Refused)
    assert "lab-1" in refusal.message
    assert "`rules.allow`" in refusal.message
    assert refusal.mend


def test_a_tag_that_is_not_listed_is_refused_at_the_door(picky: Lab) -> None:
    assert "the tags `v*`" in picky.refusal(picky.command(ref="refs/tags/nightly")).message


def test_a_repository_that_is_served_and_not_listed_is_refused_at_the_door(picky: Lab) -> None:
    refusal = picky.refusal(picky.command(repository=OTHER))
    assert isinstance(refusal, Refused)
    assert f"no entry names the repository {OTHER}" in refusal.message


def test_a_sender_who_is_not_listed_is_refused_whatever_his_key_may_send(picky: Lab) -> None:
    assert "commands of `ada` are allowed, not of `eve`" in picky.refusal(by="eve").message
    dev = picky.commit(branch="dev")
    view = picky.done(picky.send(picky.command(ref="refs/heads/dev", commit=dev), by="eve"))
    assert view.run.outcome is Outcome.SUCCEEDED


def test_a_name_is_the_owners_word_for_a_key_and_not_the_keys_own(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    key = fingerprint(lab.sender("ada").public_key())
    lab.rules = Rules(allow=(Allow(senders=(key,)),))
    with lab.open():
        assert lab.done(lab.send()).run.outcome is Outcome.SUCCEEDED
        assert "not of `eve`" in lab.refusal(by="eve").message


@pytest.mark.parametrize(
    "ref", ["refs/pull/1/head", "refs/pull/1/merge", "refs/merge-requests/1/head", "refs/notes/x"]
)
def test_heads_of_pull_requests_and_odd_refs_are_refused_unless_listed(tmp_path: Path, ref: str) -> None:
    with Lab(tmp_path).open() as lab:
        lab.work.git("push", "--quiet", "origin", f"HEAD:{ref}")
        refusal = lab.refusal(lab.command(ref=ref))
    assert isinstance(refusal, Refused)
    assert "`rules.allow`" in refusal.message


def test_pushtrains_own_branches_start_nothing(tmp_path: Path) -> None:
    with Lab(tmp_path).open() as lab:
        for branch in ("pushtrain/results", "pushtrain/config"):
            refusal = lab.refusal(lab.command(ref=f"refs/heads/{branch}"))
            assert "pushtrain's own branch" in refusal.message


def test_results_do_not_go_where_no_entry_allows(picky: Lab) -> None:
    for target in (ResultsTarget(repository=OTHER), ResultsTarget(repository=OTHER, branch="main")):
        assert OTHER in picky.refusal(picky.command(results_to=target)).message
    own = picky.refusal(picky.command(results_to=ResultsTarget(branch="topic")))
    assert "`rules.results_branches`" in own.message


def test_a_branch_of_the_same_name_in_another_repository_is_not_the_pushed_one(tmp_path: Path) -> None:
    with Lab(tmp_path).open() as lab:
        refusal = lab.refusal(lab.command(results_to=ResultsTarget(repository=OTHER, branch="main")))
    assert isinstance(refusal, Refused)
    assert "`rules.results_branches`" in refusal.message


def test_a_key_for_one_repository_sends_no_results_to_another(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.sender("eve", repositories=(REPOSITORY,))
    with lab.open():
        refusal = lab.refusal(lab.command(results_to=ResultsTarget(repository=OTHER)), by="eve")
    assert isinstance(refusal, Forbidden)
    assert OTHER in refusal.message


# --- rules that changed meanwhile -------------------------------------------------------------------------


def test_a_run_that_waited_while_the_rules_changed_is_refused_by_the_new_ones(tmp_path: Path) -> None:
    lab = Lab(tmp_path, more={"slots": 1})
    with lab.open():
        first = lab.send(lab.command("echo $$ > pid; exec sleep 600"))
        lab.until(first, lambda view: view.run.started_at is not None)
        waiting = lab.send()
    lab.rules = Rules(allow=(Allow(branches=("release",)),))
    with lab.open():
        lab.client().cancel(first.id)
        lab.done(first)
        view = lab.done(waiting)
    assert (view.run.outcome, view.run.reason) == (Outcome.FAILED, Reason.REFUSED)
    assert not ran(lab, view)
    assert view.run.detail.startswith("Refused by the owner's rule `rules.allow`: the branches `release`")
    assert "rules.allow" in lab.result(view.run, "README.md")
    assert view.run.ending == "failed (refused)"


# --- limits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("rules.limits.time", {"timeout": 3601.0}),
        ("rules.limits.memory", {"resources": Resources(memory=9 * 10**9)}),
    ],
)
def test_a_job_that_asks_for_more_than_a_limit_is_refused_at_the_door(
    tmp_path: Path, rule: str, changes: dict[str, Any]
) -> None:
    with Lab(tmp_path, Rules(limits=Limits(time=3600, memory=8 * 10**9))).open() as lab:
        refusal = lab.refusal(lab.command(**changes))
    assert isinstance(refusal, BeyondLimits)
    assert refusal.status == 422
    assert f"`{rule}`" in refusal.message
    assert refusal.mend


def test_a_training_is_ended_at_the_owners_limit_of_time_which_is_named(tmp_path: Path) -> None:
    with Lab(tmp_path, Rules(limits=Limits(time=0.5))).open() as lab:
        view = lab.done(lab.send(lab.command("echo ran; exec sleep 600")))
    assert view.run.reason is Reason.TIMEOUT
    assert "`rules.limits.time`" in view.run.detail


def test_a_log_is_kept_up_to_the_owners_limit_and_counted_to_the_end(tmp_path: Path) -> None:
    with Lab(tmp_path, Rules(limits=Limits(log=2 << 20))).open() as lab:
        view = lab.done(lab.send(lab.command("head -c 20000000 /dev/zero")))
        kept = sum(path.stat().st_blocks * 512 for path in lab.state.runs.glob(f"{view.run.id}/*/log.txt"))
    assert view.attempts[-1].log_size == 20_000_000
    assert kept < 4 << 20


# --- the host's number ------------------------------------------------------------------------------------


@pytest.fixture
def host() -> Iterator[StatusApi]:
    with serving_statuses() as api:
        yield api


def numbered(folder: Path, host: StatusApi, **entry: Any) -> Lab:
    """An owner who means one repository, by the number that its host has for it."""
    allow = (Allow(**{"id": "1296269", **entry}),)
    return Lab(folder, Rules(allow=allow), key=f"{host.host}/octo/hello", more={"status_api": host.url})


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHTRAIN_HOST_TOKEN", TOKEN)


def test_a_repository_with_the_owners_number_runs(tmp_path: Path, host: StatusApi) -> None:
    with numbered(tmp_path, host).open() as lab:
        assert lab.done(lab.send()).run.outcome is Outcome.SUCCEEDED
        assert lab.done(lab.send(lab.command(repository_id="1296269"))).run.outcome is Outcome.SUCCEEDED
    assert "GET /repos/octo/hello" in host.asked


def test_a_repository_that_took_over_a_name_is_refused_whatever_its_sender_says(
    tmp_path: Path, host: StatusApi
) -> None:
    host.shown.append(Scripted(200, body={"id": 666, "full_name": "octo/hello"}))
    with numbered(tmp_path, host).open() as lab:
        view = lab.done(lab.send(lab.command(repository_id="1296269")))
    assert view.run.reason is Reason.REFUSED
    assert "is number 666 at its host, and number 1296269 is allowed" in view.run.detail
    assert not ran(lab, view)
    assert not (lab.state.runs / view.run.id / "1" / "tree").exists()


def test_a_command_that_says_another_number_is_refused_at_the_door(tmp_path: Path, host: StatusApi) -> None:
    with numbered(tmp_path, host).open() as lab:
        refusal = lab.refusal(lab.command(repository_id="666"))
    assert isinstance(refusal, Refused)
    assert "number 666" in refusal.message


@pytest.mark.parametrize("status", [404, 401])
def test_a_host_that_does_not_tell_the_number_is_no_permission(
    tmp_path: Path, host: StatusApi, status: int
) -> None:
    host.shown.append(Scripted(status, body={"message": "Not Found"}))
    with numbered(tmp_path, host).open() as lab:
        view = lab.done(lab.send())
    assert view.run.reason is Reason.REFUSED
    assert "does not tell its number" in view.run.detail
    assert "PUSHTRAIN_HOST_TOKEN" in view.run.detail
    assert not ran(lab, view)


def test_a_token_that_has_ended_holds_a_run_up_and_refuses_it_not(
    tmp_path: Path,
    host: StatusApi,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its owner has to mend it, not who sent the run: it was refused for good, with every other one."""
    monkeypatch.setattr(retry, "FIRST_UNREADY", 0.2)
    with numbered(tmp_path, host).open() as lab:
        assert lab.done(lab.send()).run.outcome is Outcome.SUCCEEDED
        monkeypatch.setattr("pushtrain.adapters.hosts.github_repository._FRESH", -1.0)
        host.shown += [Scripted(status, body={"message": "Bad credentials"}) for status in (401, 404)]
        run = lab.send()
        view = lab.until(run, lambda view: view.run.reason is Reason.UNREACHABLE)
        assert "rules.allow" in view.run.detail
        assert "PUSHTRAIN_HOST_TOKEN" in view.run.detail, "the owner reads the mend"
        assert not ran(lab, view)
        assert any("PUSHTRAIN_HOST_TOKEN" in each.getMessage() for each in caplog.records)
        view = lab.done(run)
        assert (view.run.outcome, view.run.attempt) == (Outcome.SUCCEEDED, 3), "once it is mended"


def test_a_repository_on_a_host_that_cannot_be_asked_is_not_allowed(tmp_path: Path, host: StatusApi) -> None:
    lab = numbered(tmp_path, host)
    lab.key = "git.example.org/octo/hello"
    with lab.open():
        view = lab.done(lab.send())
    assert view.run.reason is Reason.REFUSED
    assert not ran(lab, view)


def test_while_the_host_does_not_answer_the_run_waits(tmp_path: Path, host: StatusApi) -> None:
    host.shown.append(Scripted(502))
    with numbered(tmp_path, host).open() as lab:
        run = lab.send()
        view = lab.until(run, lambda view: view.run.state is State.QUEUED and view.run.not_before > 0)
        assert view.run.reason is Reason.DEFERRED
        assert "rules.allow" in view.run.waiting_for
        lab.client().cancel(run.id)
        assert lab.done(run).run.outcome is Outcome.CANCELLED


# --- pull requests ----------------------------------------------------------------------------------------


def pulled(folder: Path, *, forks: bool) -> tuple[Lab, str, str]:
    """A lab that allows pull requests; the head of one of its own, and of one from a fork."""
    lab = Lab(folder, Rules(allow=(Allow(pull_requests=True, forks=forks),)))
    own = lab.commit(branch="topic")
    lab.commit(branch="topic")
    lab.work.git("push", "--quiet", "origin", f"{own}:refs/pull/1/head")
    lab.work.git("checkout", "--quiet", "--detach")
    fork = lab.work.commit({"evil.txt": "x"})
    lab.work.git("push", "--quiet", "origin", f"{fork}:refs/pull/2/head")
    return lab, own, fork


def test_a_pull_request_of_the_repositorys_own_runs_where_it_is_listed_and_a_forks_does_not(
    tmp_path: Path,
) -> None:
    lab, own, fork = pulled(tmp_path, forks=False)
    with lab.open():
        view = lab.done(lab.send(lab.command(ref="refs/pull/1/head", commit=own)))
        assert view.run.outcome is Outcome.SUCCEEDED
        evil = lab.done(lab.send(lab.command(ref="refs/pull/2/head", commit=fork)))
    assert evil.run.reason is Reason.REFUSED
    assert "it comes from a fork" in evil.run.detail
    assert not ran(lab, evil)


def test_a_pull_request_of_a_fork_runs_where_forks_are_listed(tmp_path: Path) -> None:
    lab, _, fork = pulled(tmp_path, forks=True)
    with lab.open():
        view = lab.done(lab.send(lab.command(ref="refs/pull/2/head", commit=fork)))
    assert view.run.outcome is Outcome.SUCCEEDED


def test_a_key_whose_rights_narrowed_while_its_run_waited_does_not_start_it(tmp_path: Path) -> None:
    with Lab(tmp_path, more={"slots": 1}).open() as lab:
        first = lab.send(lab.command("exec sleep 600"), by="bob")
        lab.until(first, lambda view: view.run.started_at is not None, by="bob")
        waiting = lab.send()
        lab.sender("ada", branches=("release",))
        lab.client("bob").cancel(first.id)
        lab.done(first, by="bob")
        view = lab.done(waiting, by="bob")
    assert (view.run.reason, ran(lab, view)) == (Reason.REFUSED, False)
    assert "`authorized_keys`" in view.run.detail
