"""Several keys ask for what bears one id: nobody is answered with another's run, or loses his own to one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from asking import SENDER, STRANGER, ask, send
from pushtrain.core.runs.precedence import GivesWay
from pushtrain.core.values.command import Checkpoint
from pushtrain.core.values.jobspec import Concurrency, ResultsTarget
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Outcome, State
from pushtrain.core.wire.signing import fingerprint
from pushtrain.testing import a_command, a_spec
from served import Served, served


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "state") as one:
        one.authorized.add(SENDER.public_key(), name="ada")
        yield one


def test_nobody_is_answered_with_a_run_of_another_job_that_took_its_id(executor: Served) -> None:
    """A run's id says neither what its job does nor on which branch its commit is.

    Whoever may send for a branch that holds the commit, too, could else run something of his own in the name
    of everybody's push: the right command would be answered with a run that never trains.
    """
    executor.authorized.add(STRANGER.public_key(), name="eve", branches=["exp/**"])
    evil = a_command(ref="refs/heads/exp/x", job=a_spec(command="true"))
    right = a_command()
    assert evil.run_id == right.run_id
    assert send(executor, evil, key=STRANGER).status == 202
    answer = send(executor, right)
    assert (answer.status, answer.error, answer.bound) == (409, "conflict", True)
    assert "before, for refs/heads/exp/x" in answer.told
    assert executor.store.run(right.run_id).command == evil
    assert send(executor, evil, key=STRANGER).status == 202, "his own is his own still"
    same = a_command(ref="refs/heads/exp/y")
    assert send(executor, same, key=STRANGER).status == 409, "he cannot bend it afterwards either"


def test_a_released_run_does_not_come_back_as_another_job(executor: Served) -> None:
    executor.authorized.add(STRANGER.public_key(), name="eve")
    right = a_command()
    send(executor, right)
    assert ask(executor, "POST", f"/v1/runs/{right.run_id}/release").status == 200
    later = {"attempt": 1}
    evil = a_command(job=a_spec(command="true")).model_copy(update=later)
    assert send(executor, evil, key=STRANGER).status == 409
    assert send(executor, right.model_copy(update=later)).status == 202


def test_nobody_can_choose_the_id_of_a_run(executor: Served) -> None:
    """Eve knows the repository, the next commit and its job, and so the id that its push will have."""
    executor.authorized.add(STRANGER.public_key(), name="eve", branches=["exp/**"])
    right = a_command(commit="c" * 40)
    for evil in (
        a_command(ref="refs/heads/exp/x"),
        a_command(ref="refs/heads/exp/x", job=a_spec(name="other")),
        a_command(ref="refs/heads/exp/x", commit="c" * 40, request="again"),
        a_command(ref="refs/heads/exp/x", commit="c" * 40, job=a_spec(cell={"lr": 1})),
    ):
        answer = send(executor, evil.model_copy(update={"run_id": right.run_id}), key=STRANGER)
        assert (answer.status, answer.bound) == (400, True)
        assert "not that of this command" in answer.told
    assert executor.store.runs() == []
    assert send(executor, right).status == 202


def test_a_run_that_somebody_else_begins_from_his_own_checkpoint_is_not_the_one_that_was_meant(
    executor: Served,
) -> None:
    """What a job loads from a checkpoint may be a program: pickles are."""
    executor.authorized.add(STRANGER.public_key(), name="eve")
    poison = Checkpoint(attempt=1, where="lfs", sha256="e" * 64, size=1)
    right = a_command()
    evil = right.model_copy(update={"checkpoint": poison, "attempt": 1})
    assert send(executor, evil, key=STRANGER).status == 202
    answer = send(executor, right)
    assert (answer.status, answer.error, answer.bound) == (409, "conflict", True)
    # Nor does he put it under a run of ours, before or after it was released.
    mine = a_command(commit="c" * 40)
    evil = mine.model_copy(update={"checkpoint": poison, "attempt": 1})
    assert send(executor, mine).status == 202
    assert send(executor, evil, key=STRANGER).status == 409
    assert ask(executor, "POST", f"/v1/runs/{mine.run_id}/release").status == 200
    assert send(executor, evil, key=STRANGER).status == 409
    own = poison.model_copy(update={"sha256": "d" * 64})
    assert send(executor, mine.model_copy(update={"checkpoint": own, "attempt": 1})).status == 202
    assert executor.store.run(mine.run_id).command.checkpoint == own


def test_where_the_branch_matters_a_run_that_somebody_else_sent_for_another_one_is_another_run(
    executor: Served,
) -> None:
    """Secrets are given by branch, and results may go to it; else one commit on two branches is one run."""
    executor.authorized.add(STRANGER.public_key(), name="eve", branches=["exp/**"])
    for status, job in (
        (409, a_spec(name="with-secrets", secrets=("TOKEN",))),
        (409, a_spec(name="beside-the-code", results_to=ResultsTarget(branch="same"))),
        (202, a_spec(name="plain")),
    ):
        assert send(executor, a_command(ref="refs/heads/exp/x", job=job), key=STRANGER).status == 202
        assert send(executor, a_command(job=job)).status == status, job.name
    twice = a_spec(name="of-one-sender", secrets=("TOKEN",))
    for branch in ("one", "other"):
        assert send(executor, a_command(ref=f"refs/heads/{branch}", job=twice)).status == 202


def test_a_run_that_another_key_has_let_go_of_is_queued_anew_for_whoever_asks(executor: Served) -> None:
    """Eve sends the commit of main's next push, unchanged, and takes her run back before that push comes."""
    executor.authorized.add(STRANGER.public_key(), name="eve", branches=["exp/**"])
    assert send(executor, a_command(ref="refs/heads/exp/x"), key=STRANGER).status == 202
    released = f"/v1/runs/{a_command().run_id}/release"
    assert ask(executor, "POST", released, key=STRANGER).status == 200
    run = Run.model_validate_json(send(executor).body)
    assert (run.state, run.outcome, run.sender) == (State.QUEUED, None, fingerprint(SENDER.public_key()))
    assert run.command == a_command()
    assert executor.store.command_as_received(run.id)[0] == a_command().model_dump_json().encode()
    assert ask(executor, "POST", released, key=STRANGER).status == 403, "it is not hers any more"
    claimed, _ = executor.claim()
    assert claimed.id == run.id


def test_a_run_that_another_branchs_key_had_cancelled_is_not_the_answer(executor: Served) -> None:
    executor.authorized.add(STRANGER.public_key(), name="eve", branches=["exp/**"])
    evil = a_command(ref="refs/heads/exp/x")
    assert send(executor, evil, key=STRANGER).status == 202
    assert ask(executor, "POST", f"/v1/runs/{evil.run_id}/cancel", key=STRANGER).status == 200
    answer = send(executor)
    assert (answer.status, answer.error, answer.bound) == (409, "conflict", True)
    # Who may send for main, and has its run cancelled, has it cancelled for every key of main.
    mine = a_command(commit="c" * 40)
    assert send(executor, mine).status == 202
    assert ask(executor, "POST", f"/v1/runs/{mine.run_id}/cancel").status == 200
    executor.authorized.add(STRANGER.public_key(), name="ci")
    assert Run.model_validate_json(send(executor, mine, key=STRANGER).body).outcome is Outcome.CANCELLED
    # But not what was cancelled because its key does not count any more.
    last = a_command(commit="d" * 40)
    assert send(executor, last, key=STRANGER).status == 202
    executor.authorized.revoke("ci")
    executor.service._warden.look()
    assert executor.store.run(last.run_id).outcome is Outcome.CANCELLED
    assert send(executor, last).status == 409


def test_a_run_that_two_keys_have_asked_for_is_taken_by_neither_from_the_other(executor: Served) -> None:
    executor.authorized.add(STRANGER.public_key(), name="eve", branches=["exp/**"])
    evil, right = a_command(ref="refs/heads/exp/x"), a_command()
    assert send(executor, evil, key=STRANGER).status == 202
    assert send(executor, right).status == 202
    path = f"/v1/runs/{right.run_id}"
    assert ask(executor, "POST", f"{path}/release", key=STRANGER).status == 409
    answer = ask(executor, "POST", f"{path}/cancel", key=STRANGER)
    assert (answer.status, answer.error) == (409, "conflict")
    assert "for refs/heads/main" in answer.told
    run = executor.store.run(right.run_id)
    assert (run.state, run.sender, run.command) == (State.QUEUED, fingerprint(SENDER.public_key()), right)
    assert executor.store.command_as_received(run.id)[0] == right.model_dump_json().encode()
    assert executor.store.events(run.id)[-1].kind == "handed-over"
    claimed, _ = executor.claim()
    assert claimed.sender == run.sender
    assert ask(executor, "POST", f"{path}/cancel").status == 200, "there is nobody else any more"


def test_a_key_that_was_revoked_holds_no_run_of_another_one(executor: Served) -> None:
    """It had asked for it, too; so it could not go on at another executor as long as it was here."""
    executor.authorized.add(STRANGER.public_key(), name="eve", branches=["exp/**"])
    assert send(executor).status == 202
    assert send(executor, a_command(ref="refs/heads/exp/x"), key=STRANGER).status == 202
    path = f"/v1/runs/{a_command().run_id}/release"
    assert ask(executor, "POST", path).status == 409
    executor.authorized.revoke("eve")
    assert ask(executor, "POST", path).status == 200


def test_the_run_of_a_revoked_key_goes_on_for_whoever_else_has_asked_for_it(executor: Served) -> None:
    executor.authorized.add(STRANGER.public_key(), name="eve", branches=["exp/**"])
    alone = a_command(ref="refs/heads/exp/x", commit="c" * 40)
    for command in (alone, a_command(ref="refs/heads/exp/x")):
        assert send(executor, command, key=STRANGER).status == 202
    assert send(executor).status == 202
    executor.authorized.revoke("eve")
    executor.service._warden.look()
    assert executor.store.run(alone.run_id).outcome is Outcome.CANCELLED
    run = executor.store.run(a_command().run_id)
    assert (run.state, run.sender) == (State.QUEUED, fingerprint(SENDER.public_key()))
    executor.authorized.revoke("ada")
    executor.service._warden.look()
    assert executor.store.run(run.id).outcome is Outcome.CANCELLED


def test_a_newer_push_to_one_branch_takes_no_run_that_another_branchs_key_has_asked_for(
    executor: Served,
) -> None:
    executor.authorized.add(STRANGER.public_key(), name="eve", branches=["exp/**"])
    job = a_spec(concurrency=Concurrency.CANCEL)
    evil = a_command(ref="refs/heads/exp/x", job=job)
    newer = a_command(ref="refs/heads/exp/x", job=job, commit="c" * 40)
    for command, key in ((evil, STRANGER), (a_command(job=job), SENDER), (newer, STRANGER)):
        assert send(executor, command, key=key).status == 202
    older, newest = executor.store.run(evil.run_id), executor.store.run(newer.run_id)
    executor.service._giveway._do(GivesWay(older, newest, Concurrency.CANCEL))
    run = executor.store.run(evil.run_id)
    assert (run.state, run.command.ref) == (State.QUEUED, "refs/heads/main")


def test_a_run_that_has_begun_from_a_trusted_checkpoint_is_the_answer_to_every_key_of_its_branch(
    executor: Served,
) -> None:
    """It has moved here; a CI step's `send` with a key of its own must not train it once more elsewhere."""
    came = Checkpoint(attempt=1, where="lfs", sha256="d" * 64, size=1)
    moved = a_command().model_copy(update={"checkpoint": came, "attempt": 1})
    executor.authorized.add(STRANGER.public_key(), name="ci")
    assert send(executor, moved).status == 202
    assert send(executor, key=STRANGER).status == 409, "it has not begun"
    executor.claim()
    answer = send(executor, key=STRANGER)
    assert answer.status == 202
    assert Run.model_validate_json(answer.body).command == moved
    # Whose key may not send for this branch has no say in what its runs begin from.
    other = a_command(commit="c" * 40)
    executor.authorized.add(STRANGER.public_key(), name="ci", branches=["exp/**"])
    evil = a_command(commit="c" * 40, ref="refs/heads/exp/x")
    evil = evil.model_copy(update={"checkpoint": came, "attempt": 1})
    assert send(executor, evil, key=STRANGER).status == 202
    executor.claim()
    assert send(executor, other).status == 409
