"""Settings: file, environment and flags, and what is said of a mistake."""

from pathlib import Path
from typing import Any

import pytest

from pushtrain.core.errors import ConfigError, PushtrainError
from pushtrain.core.settings import ExecutorSettings, Settings
from pushtrain.plumbing.state import StateFolder
from pushtrain.wiring.settings import load_settings, open_state


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    return open_state(tmp_path / "state")


def test_without_a_file_every_setting_has_its_default(folder: StateFolder) -> None:
    assert load_settings(folder, environ={}) == Settings()


def test_a_flag_wins_over_the_environment_which_wins_over_the_file(folder: StateFolder) -> None:
    folder.settings.write_text('[executor]\nslots = 2\nname = "lab-3"\nport = 1000\n')
    environ = {"PUSHTRAIN_EXECUTOR_SLOTS": "3", "PUSHTRAIN_EXECUTOR_PORT": "2000"}
    found = load_settings(folder, environ=environ, executor={"slots": 4, "name": None}).executor
    assert (found.slots, found.port, found.name) == (4, 2000, "lab-3")


def test_lists_tables_and_addresses_can_be_given_in_the_environment(folder: StateFolder) -> None:
    environ = {
        "PUSHTRAIN_EXECUTOR_LABELS": "a100, linux",
        "PUSHTRAIN_EXECUTOR_MOUNTS": "imagenet=/data/imagenet",
        "PUSHTRAIN_SENDER_EXECUTORS": "http://127.0.0.1:1 ed25519:A, http://127.0.0.1:2 ed25519:B",
    }
    found = load_settings(folder, environ=environ)
    assert found.executor.labels == ("a100", "linux")
    assert found.executor.mounts == {"imagenet": "/data/imagenet"}
    assert [(one.url, one.public_key) for one in found.sender.executors] == [
        ("http://127.0.0.1:1", "ed25519:A"),
        ("http://127.0.0.1:2", "ed25519:B"),
    ]


def test_a_repository_may_be_only_its_address(folder: StateFolder) -> None:
    folder.settings.write_text('repositories = ["https://GitHub.com/octo/hello.git"]\n')
    found = load_settings(folder, environ={}, repositories=("git@github.com:octo/other.git",)).repositories
    assert [one.key for one in found] == ["github.com/octo/hello", "github.com/octo/other"]


def test_a_repository_named_twice_is_one(folder: StateFolder) -> None:
    folder.settings.write_text('repositories = ["https://github.com/octo/hello"]\n')
    assert (
        len(
            load_settings(
                folder, environ={}, repositories=("https://github.com/octo/hello.git",)
            ).repositories
        )
        == 1
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[executor]\nslot = 2\n", ["executor.slot", "Did you mean `slots`?"]),
        ("[executr]\n", ["executr", "Did you mean `executor`?"]),
        ('[executor]\nslots = "many"\n', ["executor.slots", "'many'", "settings.toml"]),
        ("[executor]\nport = 70000\n", ["executor.port", "70000"]),
        ('[executor]\nname = "-x"\n', ["executor.name"]),
        ("[executor\n", ["settings.toml", "line 1"]),
        ("repositories = 3\n", ["repositories", "not a list"]),
        ("repositories = [3]\n", ["repositories"]),
        ("[executor]\nslots = 1\n[executor.slots]\nx = 1\n", ["settings.toml"]),
        ('executor = "x"\n', ["executor"]),
    ],
)
def test_a_mistake_is_named_with_its_place_and_its_mend(
    folder: StateFolder, text: str, words: list[str]
) -> None:
    folder.settings.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(folder, environ={})
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert caught.value.mend


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"executor": {"slots": 0}}, "`--slots` is 0"),
        ({"sender": {"poll_seconds": -1.0}}, "`--poll-seconds` is -1.0"),
        ({"sender": {"executors": [{"url": "http://127.0.0.1:1"}]}}, "`--executor`"),
        ({"environ": {"PUSHTRAIN_EXECUTOR_PORT": "99999"}}, "`PUSHTRAIN_EXECUTOR_PORT` is '99999'"),
        ({"environ": {"PUSHTRAIN_EXECUTOR_PORT": "1"}, "executor": {"port": 99999}}, "`--port` is 99999"),
    ],
)
def test_a_mistake_is_named_by_the_flag_or_the_variable_that_it_came_from(
    folder: StateFolder, given: dict[str, Any], place: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(folder, **{"environ": {}, **given})
    assert str(caught.value).startswith(place)
    assert "settings.toml" not in str(caught.value)


def test_a_password_in_a_remote_is_refused_with_its_place_and_not_repeated(folder: StateFolder) -> None:
    remote = "https://me:hunter2@github.com/octo/hello"
    with pytest.raises(PushtrainError, match=r"^`--repo`: ") as caught:
        load_settings(folder, environ={}, repositories=(remote,))
    assert "hunter2" not in str(caught.value)
    folder.settings.write_text(f'repositories = ["{remote}"]\n')
    with pytest.raises(PushtrainError, match=r"settings\.toml: ") as caught:
        load_settings(folder, environ={})
    assert "hunter2" not in str(caught.value)


def test_the_state_folder_is_private(folder: StateFolder) -> None:
    assert folder.root.stat().st_mode & 0o777 == 0o700


def test_a_state_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PushtrainError, match="--state"):
        open_state(tmp_path / "file" / "state")


def test_every_executor_setting_can_be_given_in_the_environment(folder: StateFolder) -> None:
    values = {"name": "x", "host": "::1", "labels": "a", "mounts": "m=/m", "environments": "e=/e"}
    values |= {"tunnel": "none", "ssh_remote": "0"}
    fields = ExecutorSettings.model_fields
    values |= {field: "true" for field, info in fields.items() if info.annotation is bool}
    environ = {
        f"PUSHTRAIN_EXECUTOR_{field.upper()}": values.get(field, "4194304") if field != "port" else "8000"
        for field in fields
        if field != "slots"
    }
    found = load_settings(folder, environ=environ).executor
    assert found.port == 8000
    assert found.grace == 4194304
    assert found.environments == {"e": "/e"}
    assert found.publish_gpu_uuids


def test_the_roster_is_set_for_all_repositories_in_the_environment_or_for_one_in_its_table(
    folder: StateFolder,
) -> None:
    folder.settings.write_text(
        'roster = "main:a.json"\n'
        'repositories = [{ remote = "https://github.com/octo/hello", roster = "lab/gpus" }]\n'
    )
    assert load_settings(folder, environ={}).roster == "main:a.json"
    found = load_settings(folder, environ={"PUSHTRAIN_ROSTER": ""})
    assert (found.roster, found.repositories[0].roster) == ("", "lab/gpus")
