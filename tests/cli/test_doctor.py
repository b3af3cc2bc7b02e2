"""`pushtrain doctor`: each thing that can be wrong is made wrong, and named with its mend."""

import http.server
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from pushtrain.cli.app import run
from pushtrain.cli.checks import isolation
from pushtrain.cli.checks import machine as checks
from pushtrain.cli.screen import render
from pushtrain.core.errors import ConfigError
from pushtrain.core.owner.canaries import Act
from pushtrain.core.owner.rules import Rules
from pushtrain.core.runs.gpuhealth import Trouble
from pushtrain.demo.host import Host
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.git.branch import Branch
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.http.clocks import ahead
from pushtrain.plumbing.keys.authorized import Authorized, load_or_create
from pushtrain.plumbing.machine.excluded import Excluded
from pushtrain.plumbing.machine.systemd import Manager
from pushtrain.testing import WorkRepository, a_gpu
from pushtrain.wiring.isolation import Rung, choose, ladder
from pushtrain.wiring.network import WayOut
from status_host import TOKEN, Scripted, StatusApi, serving_statuses


class Patient:
    """A state folder, and what doctor finds there."""

    def __init__(self, folder: StateFolder, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        self.status = 0

    def settings(self, document: Mapping[str, Any]) -> None:
        self.folder.settings.write_text(tomlkit.dumps(document))

    def findings(self, what: str) -> list[dict[str, Any]]:
        """What was found of one thing."""
        return [one for one in self._found() if one["what"] == what]

    def finding(self, what: str) -> dict[str, Any]:
        """The one thing that was found of it."""
        return self.look()(what)

    def look(self) -> Callable[[str], dict[str, Any]]:
        """Look once; gives the one thing that was found of whatever is asked for."""
        found = self._found()

        def of(what: str) -> dict[str, Any]:
            (one,) = [each for each in found if each["what"] == what]
            return one

        return of

    def _found(self) -> list[dict[str, Any]]:
        self._capsys.readouterr()
        self.status = run(("doctor", "--json", "--state", str(self.folder.root)))
        found: list[dict[str, Any]] = json.loads(self._capsys.readouterr().out)
        return found


@pytest.fixture(scope="module")
def levels() -> dict[str, list[Rung]]:
    """What came of trying the levels, by the rules that they were tried for."""
    return {}


@pytest.fixture
def patient(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    levels: dict[str, list[Rung]],
) -> Patient:
    def tried_once(folder: StateFolder, rules: Rules, way: WayOut, *, idly: bool = False) -> list[Rung]:
        key = rules.model_dump_json()
        if key not in levels:
            levels[key] = list(ladder(folder, rules, way, idly=idly))
        return levels[key]

    monkeypatch.setattr(isolation, "ladder", tried_once)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)  # no clone: whoever runs the tests may stand in one
    return Patient(StateFolder(tmp_path / "state").create(), capsys)


@pytest.fixture
def levels_tried_anew(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of the levels themselves."""
    assert patient.folder.root.is_dir()
    monkeypatch.setattr(isolation, "ladder", ladder)


def test_a_fresh_machine_has_nothing_to_mend(patient: Patient) -> None:
    assert patient.finding("git")["verdict"] == "ok"
    assert patient.status == 0


def test_for_people_each_line_that_is_wrong_is_followed_by_its_mend(
    patient: Patient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "500")  # paths of tests are long
    render.console.cache_clear()
    load_or_create(patient.folder.key)
    patient.folder.key.chmod(0o644)
    assert run(("doctor", "--state", str(patient.folder.root))) == 14
    render.console.cache_clear()
    said = capsys.readouterr()
    lines = said.out.splitlines()
    wrong = next(number for number, line in enumerate(lines) if line.startswith("✗"))
    assert "others can read it" in lines[wrong]
    assert f"→ `chmod 600 {patient.folder.key}`" in lines[wrong + 1]
    assert "To be mended: key, " in said.err


def test_wrong_settings_are_named_and_the_rest_is_left(patient: Patient) -> None:
    patient.settings({"executor": {"slot": 2}})
    assert "Did you mean `slots`" in patient.finding("settings")["mend"]
    assert patient.status == 14


# --- this machine ------------------------------------------------------------------------------------------


def test_files_that_others_can_read_or_write_are_wrong(patient: Patient, tmp_path: Path) -> None:
    key = load_or_create(tmp_path / "other.key").public_key()
    Authorized(patient.folder.authorized).add(key, name="ada")
    assert patient.finding("authorized")["verdict"] == "ok"
    patient.folder.authorized.chmod(0o620)
    patient.folder.webhook_secret.write_text("secret")
    patient.folder.webhook_secret.chmod(0o640)
    patient.folder.sealing_key.write_text("key")
    patient.folder.sealing_key.chmod(0o644)
    tokens = tmp_path / "config/pushtrain/pushtrain-executor.env"
    tokens.parent.mkdir(parents=True)
    tokens.touch(0o644)
    found = patient.look()
    for what, path in (
        ("authorized", patient.folder.authorized),
        ("webhook secret", patient.folder.webhook_secret),
        ("sealing key", patient.folder.sealing_key),
        ("service tokens", tokens),
    ):
        assert found(what)["verdict"] == "wrong"
        assert found(what)["mend"] == f"`chmod 600 {path}`"


@pytest.mark.parametrize(("secret", "verdict"), [("short", "wrong"), ("0" * 32, "ok")])
def test_a_webhook_secret_that_can_be_guessed_is_wrong(
    patient: Patient, monkeypatch: pytest.MonkeyPatch, secret: str, verdict: str
) -> None:
    monkeypatch.setenv("PUSHTRAIN_WEBHOOK_SECRET", secret)
    found = patient.findings("webhook secret")[-1]
    assert found["verdict"] == verdict
    assert secret not in found["text"]


@pytest.mark.slow
@pytest.mark.usefixtures("levels_tried_anew")
def test_the_canary_matrix_is_told_with_the_level_of_jobs(
    patient: Patient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = patient.look()
    told, acts = found("isolation"), found("acts")
    assert (told["verdict"], "jobs run at level `" in told["text"]) == ("ok", True)
    assert acts["matrix"].keys() == {act.value for act in Act}
    assert acts["matrix"]["read the owner's home"]["none"] in {"known", "absent"}
    assert acts["matrix"]["signal the executor"]["none"] == "known"
    monkeypatch.setenv("PUSHTRAIN_RULES_NETWORK", "internet")  # which `none` cannot hold jobs to
    run(["doctor", "--state", str(patient.folder.root)])
    (line,) = (one for one in capsys.readouterr().out.splitlines() if "signal the executor" in one)
    assert line.endswith("(✗)"), "levels that are not offered are tried all the same"


@pytest.mark.slow
@pytest.mark.usefixtures("levels_tried_anew")
def test_a_machine_without_bubblewrap_is_told_the_command_that_mends_it(
    patient: Patient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in ("git", "bash", "cat", "sh"):
        (tmp_path / program).symlink_to(shutil.which(program) or program)
    monkeypatch.setenv("PATH", str(tmp_path))
    patient.settings({"rules": {"min_isolation": "sandbox"}})
    monkeypatch.delenv("PUSHTRAIN_RULES_MIN_ISOLATION")
    found = patient.finding("isolation")
    assert (found["verdict"], found["mend"]) == ("wrong", "`sudo apt install bubblewrap`")
    with pytest.raises(ConfigError, match="bubblewrap is not installed") as refused:
        choose(patient.folder, Rules(), WayOut(None))
    assert "`sudo apt install bubblewrap`" in str(refused.value)


def test_a_full_disk_is_wrong(patient: Patient) -> None:
    patient.settings({"executor": {"disk_floor": 1 << 60}})
    found = patient.finding("disk")
    assert (found["verdict"], "below the floor" in found["text"]) == ("wrong", True)


def test_a_driver_without_a_gpu_is_wrong(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushtrain.plumbing.machine.gpu.inventory", lambda **_: ())
    monkeypatch.setattr(checks, "_DRIVER", patient.folder.root)
    assert patient.finding("gpu")["verdict"] == "wrong"
    monkeypatch.setattr(checks, "_DRIVER", patient.folder.root / "nowhere")
    assert patient.finding("gpu")["verdict"] == "note"
    monkeypatch.setattr("pushtrain.plumbing.machine.gpu.inventory", lambda **_: (a_gpu(),))
    assert "NVIDIA RTX 4090" in patient.finding("gpu")["text"]


def test_a_gpu_that_has_failed_is_told_with_its_mend(patient: Patient) -> None:
    Excluded(patient.folder.excluded, clock=time.time).add(a_gpu(1), Trouble.MEMORY_ERRORS)
    found = list(checks._failed(patient.folder))
    assert [(one.verdict, one.mend.partition("`")[2]) for one in found] == [
        ("wrong", "pushtrain gpus --mended 1`.")
    ]
    assert "has failed (memory-errors), so nobody gets it" in found[0].text


def test_an_old_git_is_wrong(patient: Patient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "bin" / "git"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho git version 2.17.1\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{old.parent}:{os.environ['PATH']}")
    assert patient.finding("git") == {
        "what": "git", "verdict": "wrong", "text": "2.17.1", "mend": "Install git 2.30 or later."
    }  # fmt: skip


@pytest.mark.parametrize(
    ("state", "lingers", "found"),
    [
        ("active", True, ("ok", "is active")),
        ("active", False, ("wrong", "logs out")),
        ("failed", True, ("wrong", "is failed")),
    ],
)
def test_an_installed_service_runs_and_lasts(
    patient: Patient, monkeypatch: pytest.MonkeyPatch, state: str, lingers: bool, found: tuple[str, str]
) -> None:
    around = patient.folder.root.parent
    programs, root = around / "bin", around / "root"
    programs.mkdir()
    (programs / "systemctl").write_text(f"#!/bin/sh\necho ActiveState={state}\n")
    (programs / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(checks, "Manager", lambda *, system: Manager(system, root))
    unit = around / "config/systemd/user/pushtrain-executor.service"
    unit.parent.mkdir(parents=True)
    unit.touch()
    assert "systemd does not run" in patient.finding("service")["text"]
    (root / "run/systemd/system").mkdir(parents=True)
    (root / "var/lib/systemd/linger").mkdir(parents=True)
    if lingers:
        (root / "var/lib/systemd/linger" / Manager(system=False).user).touch()
    looked = patient.finding("service")
    assert (looked["verdict"], found[1] in looked["text"]) == (found[0], True)


# --- repositories ------------------------------------------------------------------------------------------


@pytest.fixture
def served(patient: Patient, git_host: Host, monkeypatch: pytest.MonkeyPatch) -> str:
    """A repository on a real host, in the settings, with a credential that may push."""
    remote = git_host.create("ada/hello")
    monkeypatch.setenv("PUSHTRAIN_GIT_TOKEN", git_host.token)
    patient.settings({"repositories": [remote]})
    return remote


def test_a_repository_that_can_be_read_and_pushed_is_well_and_stays_as_it_was(
    patient: Patient, served: str, git_host: Host, repository: Callable[..., WorkRepository]
) -> None:
    work = repository(remote=served, token=git_host.token)
    work.commit({"README.md": "hello"})
    work.push()
    for _ in range(2):
        found = patient.look()
        assert found("repository")["verdict"] == "ok"
        assert "may be pushed" in found("results")["text"]
    assert list(Mirror(patient.folder.repositories, _repo(served), token=git_host.token).ls_remote()) == [
        "refs/heads/main"
    ]


def test_a_credential_that_the_host_refuses_is_wrong(
    patient: Patient, served: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert served
    monkeypatch.setenv("PUSHTRAIN_GIT_TOKEN", "wrong")
    found = patient.finding("repository")
    assert found["verdict"] == "wrong"
    assert found["mend"]
    assert "wrong" not in found["text"].split()


def test_a_repository_that_may_only_be_read_is_enough_for_a_sender(
    patient: Patient, served: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Branch) -> None:
        raise _refusal(self.mirror.remote.key)

    monkeypatch.setattr(Branch, "rehearse", refused)
    assert served
    assert patient.finding("results")["verdict"] == "note"
    (patient.folder.runs / ("0" * 32)).mkdir()
    assert patient.finding("results")["verdict"] == "wrong"


def test_without_a_repository_it_says_what_up_does(patient: Patient) -> None:
    assert "clone's origin" in patient.finding("repositories")["text"]


def _repo(remote: str) -> Any:
    from pushtrain.core.settings import Repository
    from pushtrain.plumbing.git.remotes import key_of

    return Repository(key=key_of(remote), remote=remote)


def _refusal(key: str) -> Exception:
    from pushtrain.core.errors import CredentialError

    return CredentialError(f"{key} refused the push.")


# --- commit statuses ---------------------------------------------------------------------------------------


@pytest.fixture
def api(patient: Patient, tmp_path: Path) -> Iterator[StatusApi]:
    with serving_statuses() as api:
        remote = {"key": f"{api.host}/octo/hello", "remote": str(tmp_path / "origin.git")}
        patient.settings({"repositories": [remote], "executor": {"status_api": api.url}})
        yield api


def test_without_a_token_for_statuses_it_is_a_note(patient: Patient, api: StatusApi) -> None:
    found = patient.finding("commit status")
    assert (found["verdict"], api.asked) == ("note", [])
    assert "PUSHTRAIN_HOST_TOKEN" in found["mend"]


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [(None, "ok"), (Scripted(401, body={}), "wrong"), (Scripted(404, body={}), "wrong")],
)
def test_the_token_for_statuses_is_asked_what_it_sees(
    patient: Patient,
    api: StatusApi,
    monkeypatch: pytest.MonkeyPatch,
    reply: Scripted | None,
    verdict: str,
) -> None:
    monkeypatch.setenv("PUSHTRAIN_HOST_TOKEN", TOKEN)
    api.script.extend([reply] if reply else [])
    found = patient.finding("commit status")
    assert found["verdict"] == verdict
    assert "PUSHTRAIN_HOST_TOKEN" in found["text"]
    assert TOKEN not in str(found)
    assert api.asked == ["GET /repos/octo/hello"]


def test_an_api_without_https_is_wrong(patient: Patient) -> None:
    patient.settings({"executor": {"status_api": "http://api.example"}})
    assert patient.finding("commit status")["verdict"] == "wrong"


# --- clocks ------------------------------------------------------------------------------------------------


@contextmanager
def dated(seconds: float, status: int = 200) -> Iterator[str]:
    """A server whose clock is wrong by so much; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(status)
            self.send_header(
                "Date", formatdate(time.time() + seconds, usegmt=True) if status < 500 else "now"
            )
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
            """Say nothing."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("seconds", "verdict", "words"),
    [(0, "ok", "as that of"), (-6, "ok", "ahead of"), (60, "wrong", "behind"), (-3600, "wrong", "ahead of")],
)
def test_a_clock_that_is_wrong_is_found_at_the_git_host(
    patient: Patient, seconds: float, verdict: str, words: str
) -> None:
    with dated(seconds) as url:
        patient.settings({"repositories": [f"{url}/octo/hello.git"]})
        found = patient.finding("clock")
    assert (found["verdict"], words in found["text"]) == (verdict, True)


def test_a_clock_that_does_not_tell_is_no_finding(patient: Patient) -> None:
    with dated(0, 500) as url:
        patient.settings({"repositories": [f"{url}/octo/hello.git"]})
        assert patient.findings("clock") == []
        assert ahead(url) is None
    assert ahead(url) is None
    assert ahead("http://[") is None


# --- the owner's rules -------------------------------------------------------------------------------------


def test_rules_that_need_nothing_are_well(patient: Patient) -> None:
    assert "executor rules" in patient.finding("rules")["text"]


def test_a_list_of_signers_that_is_not_there_is_wrong(patient: Patient) -> None:
    patient.settings({"rules": {"require_signed_commits": True, "allowed_signers": "/nowhere/signers"}})
    found = patient.finding("rules")
    assert found["verdict"] == "wrong"
    assert "/nowhere/signers" in found["text"]


@pytest.mark.parametrize(("number", "verdict"), [("1296269", "ok"), ("7", "wrong")])
def test_the_number_of_a_repository_is_compared_with_its_hosts(
    patient: Patient, api: StatusApi, monkeypatch: pytest.MonkeyPatch, number: str, verdict: str
) -> None:
    monkeypatch.setenv("PUSHTRAIN_HOST_TOKEN", TOKEN)
    document = tomlkit.parse(patient.folder.settings.read_text()).unwrap()
    key = f"{api.host}/octo/hello"
    patient.settings({**document, "rules": {"allow": [{"repository": key, "id": number}]}})
    told = patient.findings("rules")
    assert [one["verdict"] for one in told] == ["ok", verdict]
    assert ("number 1296269 at its host" in told[1]["text"]) == (verdict == "wrong")


def test_a_host_that_cannot_be_asked_for_a_number_is_wrong(patient: Patient) -> None:
    allow = [{"repository": "git.example.org/**", "id": "7"}]
    patient.settings({"repositories": ["https://git.example.org/octo/hello"], "rules": {"allow": allow}})
    found = patient.findings("rules")[-1]
    assert found["verdict"] == "wrong"
    assert "status_api" in found["mend"]


def test_whether_the_owner_is_seen_is_told(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushtrain.plumbing.owner.presence.sessions", lambda: ())
    found = patient.finding("owner")
    assert found["verdict"] == "ok"
    assert "nobody is logged in" in found["text"]
    monkeypatch.setattr("pushtrain.plumbing.owner.presence.sessions", lambda: None)
    monkeypatch.setattr("pushtrain.plumbing.owner.presence.typed_at", lambda _: None)
    assert "keyboard and mouse cannot be told" in patient.finding("owner")["text"]


def test_a_rule_that_asks_for_what_this_machine_cannot_tell_is_wrong(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushtrain.plumbing.owner.presence.sessions", lambda: None)
    monkeypatch.setattr("pushtrain.plumbing.owner.presence.typed_at", lambda _: None)
    patient.settings({"rules": {"owner": {"idle": "10m"}}})
    found = patient.finding("owner")
    assert found["verdict"] == "wrong"
    assert "nothing is lent" in found["text"]
    assert "hours" in found["mend"]
    patient.settings({"rules": {"owner": {"idle": "10m", "hours": ["18:00-08:00"]}}})
    assert patient.finding("owner")["verdict"] == "ok"
