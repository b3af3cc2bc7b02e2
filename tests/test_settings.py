"""Settings: file, environment and flags, and what is said of a mistake."""

import grp
import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from pushtrain.core.errors import ConfigError, PushtrainError
from pushtrain.core.owner.rules import Allow
from pushtrain.core.settings import ExecutorSettings, Settings
from pushtrain.core.values.isolation import JobNetwork
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.wiring.settings import load, load_settings, open_state


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
        ({"sender": {"poll_seconds": -1.0}}, "`--poll-seconds` is -1 s"),
        ({"sender": {"executors": [{"url": "http://127.0.0.1:1"}]}}, "`--executor`"),
        ({"environ": {"PUSHTRAIN_EXECUTOR_PORT": "99999"}}, "`PUSHTRAIN_EXECUTOR_PORT` is 99999"),
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
    values |= {"tunnel": "none", "ssh_remote": "0", "prefer": "-10"}
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


# --- the rules' nested tables -------------------------------------------------------------------------------


def test_nested_tables_come_from_the_file_the_environment_and_flags(folder: StateFolder) -> None:
    folder.settings.write_text(
        '[rules]\nnetwork = "none"\nmin_isolation = "user"\n'
        '[rules.limits]\ntime = "6h"\nmemory = "32GB"\nlog = 2097152\n'
        "[[rules.allow]]\nid = 1296269\n"
    )
    environ = {
        "PUSHTRAIN_RULES_LIMITS_TIME": "90m",
        "PUSHTRAIN_RULES_LIMITS_PROCESSES": "100",
        "PUSHTRAIN_RULES_HOOKS_BEFORE": "/usr/bin/may-train --for 'the lab'",
        "PUSHTRAIN_RULES_NETWORK": "fetch-only",
    }
    found = load(folder, environ=environ, flags={"rules": {"network": "full", "min_isolation": None}})
    rules = found.settings.rules
    assert (rules.network, rules.min_isolation, rules.allow) == ("full", "user", (Allow(id="1296269"),))
    assert (rules.limits.time, rules.limits.memory, rules.limits.log) == (5400, 32 * 10**9, 2 << 20)
    assert rules.limits.processes == 100
    assert rules.hooks.before == (("/usr/bin/may-train", "--for", "the lab"),)
    assert found.origins == {
        ("rules", "network"): "--network",
        ("rules", "min_isolation"): "settings.toml",
        ("rules", "limits", "time"): "PUSHTRAIN_RULES_LIMITS_TIME",
        ("rules", "limits", "memory"): "settings.toml",
        ("rules", "limits", "log"): "settings.toml",
        ("rules", "limits", "processes"): "PUSHTRAIN_RULES_LIMITS_PROCESSES",
        ("rules", "hooks", "before"): "PUSHTRAIN_RULES_HOOKS_BEFORE",
        ("rules", "allow"): "settings.toml",
    }


def test_entries_of_allow_can_be_given_in_the_environment(folder: StateFolder) -> None:
    environ = {"PUSHTRAIN_RULES_ALLOW": '[{repository = "github.com/octo/*", branches = ["main"]}]'}
    rules = load_settings(folder, environ=environ).rules
    assert rules.allow == (Allow(repository="github.com/octo/*", branches=("main",)),)


def test_programs_are_one_list_or_several(folder: StateFolder) -> None:
    folder.settings.write_text('[rules.hooks]\nbefore = ["/a", "x"]\nafter = [["/b"], ["/c", "y"]]\n')
    hooks = load_settings(folder, environ={}).rules.hooks
    assert (hooks.before, hooks.after) == ((("/a", "x"),), (("/b",), ("/c", "y")))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[rules]\nnetwrk = 1\n", ["rules.netwrk", "Did you mean `network`?"]),
        ("[rules.limits]\ntim = 1\n", ["rules.limits.tim", "Did you mean `time`?"]),
        ("[rules.limit]\ntime = 1\n", ["rules.limit", "Did you mean `limits`?"]),
        ('[rules.limits]\ntime = "soon"\n', ["rules.limits.time", '"soon"', "is not a duration", "30m"]),
        (
            '[rules.limits]\nmemory = "32"\nlog = "1 fortnight"\n',
            ["rules.limits.log", "is not a size", "8GB"],
        ),
        ("[rules]\nlimits = 3\n", ["rules.limits", "[rules.limits]"]),
        (
            '[rules.owner]\nhours = "Sat"\n',
            ["rules.owner.hours", "it must be a list", 'hours = ["Sat"]'],
        ),
        ('[rules.limits]\ngpu_hours_per_day = "x"\n', ["gpu_hours_per_day", "it must be a number"]),
        ('rules = "none"\n', ["`rules` is", "[rules]"]),
        (
            "[[rules.allow]]\n[[rules.allow]]\nbranch = []\n",
            ["rules.allow.2.branch", "Did you mean `branches`?"],
        ),
        ('[[rules.allow]]\nbranches = ["[0-9"]\n', ["rules.allow.1.branches.1", "never closed"]),
        ("[[rules.allow]]\nbranches = [3]\n", ["rules.allow.1.branches.1", "valid string"]),
        ('[rules]\nartifact_urls = ["http://x/y"]\n', ["rules.artifact_urls.1", "no place for large files"]),
        ("[[rules.allow]]\nforks = true\n", ["rules.allow.1", "pull_requests = true"]),
        ("[[rules.allow]]\nid = true\n", ["rules.allow.1.id"]),
        ("[rules]\nrequire_signed_commits = true\n", ["rules", "lists no signer", "allowed_signers"]),
        (
            '[rules]\ngpg_keyring = "/k"\n',
            ["does not demand signed commits", "require_signed_commits = true"],
        ),
        ("[rules.hooks]\nbefore = [[]]\n", ["rules.hooks.before.1"]),
        ('[rules.hooks]\nbefore = "/bin/x"\n', ["rules.hooks.before"]),
        ('[rules]\nnetwork = "lan"\n', ["rules.network", "'lan'", "fetch-only"]),
        ('[[repositories]]\nroster = "x"\n', ["remote"]),
    ],
)
def test_a_mistake_in_a_rule_is_named_with_its_place_and_its_mend(
    folder: StateFolder, text: str, words: list[str]
) -> None:
    folder.settings.write_text(text)
    with pytest.raises(PushtrainError) as caught:
        load_settings(folder, environ={})
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert caught.value.mend


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("PUSHTRAIN_RULES_LIMITS_TIME", "soon", ["`PUSHTRAIN_RULES_LIMITS_TIME`", "is not a duration"]),
        ("PUSHTRAIN_RULES_ALLOW", "github.com/x", ["`PUSHTRAIN_RULES_ALLOW`", "no list of tables"]),
        ("PUSHTRAIN_RULES_ALLOW", '[{branch = "x"}]', ["PUSHTRAIN_RULES_ALLOW", "Did you mean `branches`?"]),
        ("PUSHTRAIN_RULES_HOOKS_AFTER", "/bin/x 'y", ["`PUSHTRAIN_RULES_HOOKS_AFTER`", "quotes"]),
        ("PUSHTRAIN_RULES_NETWORK", "lan", ["`PUSHTRAIN_RULES_NETWORK` is 'lan'"]),
    ],
)
def test_a_mistake_in_a_variable_of_a_rule_names_the_variable(
    folder: StateFolder, variable: str, value: str, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(folder, environ={variable: value})
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "settings.toml" not in str(caught.value)
    assert caught.value.mend


# --- in whose hands the file is -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o666, 0o602, 0o622])
def test_a_settings_file_that_others_can_write_is_refused(folder: StateFolder, mode: int) -> None:
    folder.settings.write_text('[rules]\nnetwork = "none"\n')
    os.chown(folder.settings, os.geteuid(), max(one.gr_gid for one in grp.getgrall()) + 1)
    folder.settings.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}") as caught:
        load_settings(folder, environ={})
    assert caught.value.mend == f"`chmod go-w {folder.settings}`"


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o440])
def test_a_settings_file_that_others_can_read_is_used(folder: StateFolder, mode: int) -> None:
    folder.settings.write_text('[rules]\nnetwork = "none"\n')
    folder.settings.chmod(mode)
    assert load_settings(folder, environ={}).rules.network is JobNetwork.NONE


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_settings_file_of_another_user_is_refused_to_root(folder: StateFolder) -> None:
    folder.settings.write_text("")
    os.chown(folder.settings, 65534, -1)
    with pytest.raises(ConfigError, match="belongs to nobody") as caught:
        load_settings(folder, environ={})
    assert caught.value.mend.startswith("`chown ")


def test_a_private_group_may_write_as_debian_makes_files(
    folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A umask of 002, where each user has a group of their own."""
    folder.settings.write_text("")
    folder.settings.chmod(0o664)
    me, group = folder.settings.stat().st_uid, folder.settings.stat().st_gid
    mine = pwd.struct_passwd(("ada", "x", me, group, "", "", ""))
    theirs = pwd.struct_passwd(("eve", "x", me + 1, group, "", "", ""))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: mine)
    monkeypatch.setattr(pwd, "getpwall", lambda: [mine])
    monkeypatch.setattr(grp, "getgrgid", lambda _: grp.struct_group(("ada", "x", group, ["ada"])))
    load_settings(folder, environ={})
    monkeypatch.setattr(pwd, "getpwall", lambda: [mine, theirs])
    with pytest.raises(ConfigError):
        load_settings(folder, environ={})
    monkeypatch.setattr(pwd, "getpwall", lambda: [mine])
    monkeypatch.setattr(grp, "getgrgid", lambda _: grp.struct_group(("lab", "x", group, ["ada", "eve"])))
    with pytest.raises(ConfigError):
        load_settings(folder, environ={})


def test_windows_of_the_week_may_hold_commas_in_the_environment(folder: StateFolder) -> None:
    environ = {"PUSHTRAIN_RULES_OWNER_HOURS": "Mon,Wed 18:00-20:00; Sat,Sun"}
    found = load_settings(folder, environ=environ).rules.owner
    assert found.hours == ("Mon,Wed 18:00-20:00", "Sat,Sun")
    assert load_settings(folder, environ={"PUSHTRAIN_RULES_OWNER_HOURS": ""}).rules.owner.hours == ()
    with pytest.raises(ConfigError, match="is no window of the week"):
        load_settings(folder, environ={"PUSHTRAIN_RULES_OWNER_QUIET": "at night"})


@pytest.mark.parametrize(
    ("table", "line", "told"),
    [
        (
            "rules.limits",
            "priority = 200",
            "is 200: it must be from 0 to 100. Write `priority = 100` or less.",
        ),
        ("rules.limits", "priority = -1", "is -1: it must be from 0 to 100. Write `priority = 0` or more."),
        ("rules.limits", "processes = 1", "is 1: it must be 16 or more. Write `processes = 16` or more."),
        ("rules.limits", "time = 0", 'is 0 s: it must be more than 0. Write for example `time = "24h"`.'),
        (
            "rules.limits",
            'log = "10kB"',
            'is 10000 B: it must be 1 MiB or more. Write `log = "1MiB"` or more.',
        ),
        (
            "rules.hooks",
            'timeout = "2h"',
            'is 7200 s: it must be more than 0 and at most 1 h. Write `timeout = "1h"` or less.',
        ),
        ("executor", "port = 70000", "is 70000: it must be from 0 to 65535. Write `port = 65535` or less."),
        ("executor", "slots = 1.5", "is 1.5: it must be a whole number. Mend it there."),
    ],
)
def test_a_number_beyond_its_bounds_is_told_with_what_it_may_be_and_the_mend(
    folder: StateFolder, table: str, line: str, told: str
) -> None:
    folder.settings.write_text(f"[{table}]\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(folder, environ={})
    assert f"{caught.value.message} {caught.value.mend}".endswith(told)


def test_a_number_beyond_its_bounds_in_a_variable_is_mended_in_the_variable(folder: StateFolder) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(folder, environ={"PUSHTRAIN_SENDER_LOST_AFTER": "5s"})
    assert caught.value.message == "`PUSHTRAIN_SENDER_LOST_AFTER` is 5 s: it must be 1 min or more."
    assert caught.value.mend == "Write 1m or more."


def test_a_bandwidth_that_nothing_could_be_loaded_with_is_refused(folder: StateFolder) -> None:
    found = load_settings(folder, environ={"PUSHTRAIN_RULES_OWNER_BANDWIDTH": "4MB"}).rules.owner
    assert found.bandwidth == 4_000_000
    with pytest.raises(ConfigError, match="is less than 64 KiB a second"):
        load_settings(folder, environ={"PUSHTRAIN_RULES_OWNER_BANDWIDTH": "10"})
