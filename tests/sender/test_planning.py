"""What a push starts: read at the pushed commit, explained in one line."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from moody_host import CUT, GOOD, NAME, TOKEN, moody
from pushtrain.core.errors import ConfigError, GitError, NotFound
from pushtrain.core.settings import Repository
from pushtrain.core.values.push import NO_COMMIT
from pushtrain.plumbing.git.complaint import Unanswered
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.sender.planning import plan, plan_by_hand
from sender_world import KEY, World
from spoilt import spoil


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        yield made


MATRIX = """
[job.train]
command = "python train.py ${{ matrix.lr }}"
on = {push = {branches = ["main"], paths = ["**.py"]}}
[job.train.matrix]
lr = [0.1, 0.01]
[job.evaluate]
command = "python evaluate.py"
on = "manual"
"""
SHARED = """
[results]
branch = "same"
[job.train]
command = "python train.py"
"""


@pytest.fixture
def mirror(world: World) -> Mirror:
    return world.service.mirror(world.repository.key)


def test_a_push_starts_one_command_for_each_cell_at_exactly_its_commit(world: World, mirror: Mirror) -> None:
    commit = world.commit({"pushtrain.toml": MATRIX, "train.py": ""})
    found = plan(world.push(commit, before=NO_COMMIT), mirror)
    assert [(command.commit, command.job.title) for command in found.commands] == [
        (commit, "train (lr=0.1)"),
        (commit, "train (lr=0.01)"),
    ]
    assert found.note.startswith("starts 2 runs (train: ")
    assert "evaluate: `on` names no push" in found.note


def test_the_file_is_read_at_the_pushed_commit_not_at_the_tip(world: World, mirror: Mirror) -> None:
    first = world.commit()
    world.commit({"pushtrain.toml": "broken ="})
    assert len(plan(world.push(first), mirror).commands) == 1


def test_a_path_filter_looks_at_everything_between_before_and_after(world: World, mirror: Mirror) -> None:
    before = world.commit({"pushtrain.toml": MATRIX})
    world.commit({"pushtrain.toml": MATRIX, "train.py": "x"})
    after = world.commit({"pushtrain.toml": MATRIX, "README.md": "x"})
    assert len(plan(world.push(after, before=before), mirror).commands) == 2
    words = world.commit({"pushtrain.toml": MATRIX, "README.md": "y"})
    found = plan(world.push(words, before=after), mirror)
    assert found.commands == ()
    assert "no changed file is in `on.push.paths`" in found.note


def test_a_skip_token_starts_nothing_and_is_named(world: World, mirror: Mirror) -> None:
    found = plan(world.push(world.commit(message="Typo [skip train]")), mirror)
    assert found.commands == ()
    assert "[skip train]" in found.note


@pytest.mark.parametrize(
    ("content", "said"),
    [("[job.train]\ncomand = 'x'\n", "`command`"), ("not toml at all", "not TOML")],
)
def test_a_wrong_file_starts_nothing_and_says_why(
    world: World, mirror: Mirror, content: str, said: str
) -> None:
    found = plan(world.push(world.commit({"pushtrain.toml": content})), mirror)
    assert found.commands == ()
    assert found.note.startswith("starts nothing: pushtrain.toml at ")
    assert said in found.note


def test_a_commit_without_the_file_starts_nothing_and_names_init(world: World, mirror: Mirror) -> None:
    commit = world.work.commit({"train.py": ""})
    world.work.push()
    assert "`pushtrain init`" in plan(world.push(commit), mirror).note


def test_what_needs_no_look_at_the_repository_gets_none(world: World, mirror: Mirror) -> None:
    assert "deletes" in plan(world.push("0" * 40), mirror).note
    assert "own branch" in plan(world.push("1" * 40, ref="refs/heads/pushtrain/results"), mirror).note
    assert not mirror.folder.exists()


def test_a_commit_that_the_remote_no_longer_has_starts_nothing(world: World, mirror: Mirror) -> None:
    world.commit()
    found = plan(world.push("1" * 40), mirror)
    assert found.commands == ()
    assert "starts nothing" in found.note


def test_a_remote_that_does_not_answer_is_no_reason_to_give_up(world: World, mirror: Mirror) -> None:
    commit = world.commit()
    world.remote.rename(world.root / "away")
    with pytest.raises(GitError):
        plan(world.push(commit), mirror)


def test_a_fetch_that_the_network_cuts_in_the_middle_costs_no_push(world: World, tmp_path: Path) -> None:
    """Git says at the end of it what it also says of a pack that is too large: that would settle the push."""
    commit = world.commit({"large": secrets.token_hex(100_000)})
    with moody(tmp_path / "host") as host:
        world.work.git("push", "--quiet", host.remote(NAME).replace("//", f"//x:{TOKEN}@"), "main")
        remote = Repository(key=KEY, remote=host.remote(NAME))
        mirror = Mirror(tmp_path / "mirrors", remote, token=TOKEN)
        host.mood = CUT
        with pytest.raises(Unanswered):
            plan(world.push(commit), mirror)
        host.mood = GOOD
        assert len(plan(world.push(commit), mirror).commands) == 1


def test_a_mirror_that_proves_damaged_when_it_is_read_is_made_anew(world: World, mirror: Mirror) -> None:
    """The new commit came whole; the job file in it is an older one, in a pack that the disk has spoilt."""
    first = world.commit()
    plan(world.push(first), mirror)
    spoil(mirror, f"{first}:pushtrain.toml")
    assert len(plan(world.push(world.commit({"a": "1"})), mirror).commands) == 1


def test_results_on_the_pushed_branch_start_nothing(world: World, mirror: Mirror) -> None:
    human = world.commit({"pushtrain.toml": SHARED})
    ours = world.commit({"pushtrain.toml": SHARED, "pushtrain-results/README.md": "index"})
    found = plan(world.push(ours, before=human), mirror)
    assert found.commands == ()
    assert "only what pushtrain published" in found.note


def test_a_card_on_the_pushed_branch_starts_nothing_and_the_commit_behind_it_runs(
    world: World, mirror: Mirror
) -> None:
    before = world.commit({})
    human = world.commit({"train.py": "x"})
    card = world.commit({"config.json": "{}"}, "Executor lab-1 is online\n\n[skip ci]")
    alone = plan(world.push(card, before=human), mirror, roster="config.json")
    assert alone.commands == ()
    assert "only what pushtrain published" in alone.note
    behind = plan(world.push(card, before=before), mirror, roster="config.json")
    assert [command.commit for command in behind.commands] == [human]
    elsewhere = world.commit({"config.json": "{ }"})
    found = plan(world.push(elsewhere, before=card), mirror)
    assert [command.commit for command in found.commands] == [elsewhere]


def test_an_empty_commit_of_a_person_between_cards_runs(world: World, mirror: Mirror) -> None:
    before = world.commit()
    world.commit({"lab/config.json": "{}"})
    theirs = world.commit()
    after = world.commit({"lab/config.json": '{"version": 1}'})
    found = plan(world.push(after, before=before), mirror, roster="lab/config.json")
    assert [command.commit for command in found.commands] == [theirs]


def test_a_persons_commit_that_also_touches_the_roster_runs(world: World, mirror: Mirror) -> None:
    before = world.commit({})
    mixed = world.commit({"config.json": "{}", "train.py": "y"})
    found = plan(world.push(mixed, before=before), mirror, roster="config.json")
    assert [command.commit for command in found.commands] == [mixed]


def test_behind_our_own_results_the_newest_commit_of_a_person_runs(world: World, mirror: Mirror) -> None:
    before = world.commit({"pushtrain.toml": SHARED})
    human = world.commit({"pushtrain.toml": SHARED, "train.py": "x"})
    world.commit({"pushtrain.toml": SHARED, "pushtrain-results/README.md": "1"})
    tip = world.commit({"pushtrain.toml": SHARED, "pushtrain-results/README.md": "2"})
    told = plan(world.push(human, before=before), mirror)
    seen = plan(world.push(tip, before=before), mirror)
    assert [command.commit for command in seen.commands] == [human]
    assert seen.commands == told.commands


def test_a_persons_commit_that_also_touches_results_runs(world: World, mirror: Mirror) -> None:
    before = world.commit({"pushtrain.toml": SHARED})
    mixed = world.commit({"pushtrain.toml": SHARED, "pushtrain-results/README.md": "1", "train.py": "y"})
    assert [command.commit for command in plan(world.push(mixed, before=before), mirror).commands] == [mixed]


def test_a_person_starts_the_jobs_they_name(world: World, mirror: Mirror) -> None:
    commit = world.commit({"pushtrain.toml": MATRIX})
    found = plan_by_hand(ref="refs/heads/main", commit=commit, mirror=mirror, jobs=["evaluate"], request="r1")
    assert [(command.job.name, command.request) for command in found.commands] == [("evaluate", "r1")]
    with pytest.raises(NotFound, match="no job `evaluat`"):
        plan_by_hand(ref="refs/heads/main", commit=commit, mirror=mirror, jobs=["evaluat"])


def test_a_person_is_told_of_a_missing_or_wrong_file(world: World, mirror: Mirror) -> None:
    bare = world.work.commit({"train.py": ""})
    world.work.push()
    with pytest.raises(NotFound, match=r"no pushtrain\.toml"):
        plan_by_hand(ref="refs/heads/main", commit=bare, mirror=mirror)
    wrong = world.commit({"pushtrain.toml": "x ="})
    with pytest.raises(ConfigError):
        plan_by_hand(ref="refs/heads/main", commit=wrong, mirror=mirror)
