"""A job's secrets reach its command and nothing else: no disk, no log, no result, no other job."""

import base64
import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from executor_house import House, Killable, done, logged, story

from pushtrain.core.settings import OwnerSecret
from pushtrain.core.text.redact import Mask
from pushtrain.core.values.jobspec import DataSource, Retry
from pushtrain.core.values.run import LogChunk, Run
from pushtrain.core.values.states import Outcome, Reason
from pushtrain.core.wire.secrets import parse, without
from pushtrain.executor.service import ExecutorService
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.keys.authorized import Authorized, Scope
from pushtrain.testing import REPOSITORY, eventually
from pushtrain.wiring.history import History

TOKEN = "tok-9f+/Zq?8=Lm4_canary"
DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()
STARS = "*" * len(TOKEN)
NAMES = {"secrets": ("API_TOKEN",)}
SHOW_DIGEST = 'printf %s "$API_TOKEN" | sha256sum | cut -c1-64'


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def folder(house: House, run: Run, number: int = 1) -> RunDir:
    return RunDir.of(house.state.runs, run.id, number)


def files(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())


def clear_text(root: Path, value: str = TOKEN) -> list[str]:
    """The files below a folder that hold the value in any form."""
    mask = Mask({"it": value})
    return [str(path) for path in files(root) if mask.found(path.read_bytes()) and path.suffix != ".key"]


def published(house: House) -> list[tuple[str, bytes]]:
    """Every file of every commit on the origin, and every commit message."""
    origin = str(house.origin)

    def git(*words: str) -> bytes:
        return subprocess.run(["git", "--git-dir", origin, *words], check=True, capture_output=True).stdout

    objects = [line.split()[0] for line in git("rev-list", "--objects", "--all").decode().splitlines()]
    return [(one, git("cat-file", "-p", one)) for one in objects]


# --- who gets it ------------------------------------------------------------------------------------------


@story
async def test_a_job_gets_the_secrets_that_it_names_and_they_lie_nowhere(house: House) -> None:
    house.seal("API_TOKEN", TOKEN)
    go = house.folder / "go"
    async with house.running() as service:
        command = f"{SHOW_DIGEST}; until test -e {go}; do sleep 0.02; done"
        run = house.send(service, command, **NAMES)
        await logged(service, run, DIGEST)
        assert clear_text(house.state.root) == [], "while the job runs"
        go.touch()
        run = await done(service, run)
        assert run.outcome is Outcome.SUCCEEDED
        (attempt,) = service.store.attempts(run.id)
        assert attempt.secrets[0].startswith("API_TOKEN, sealed by ada (SHA256:")
        assert "**Secrets** | API_TOKEN, sealed by ada" in house.result(run, "README.md")
    assert clear_text(house.state.root) == []
    assert not folder(house, run).given.exists()


@story
async def test_neither_setup_nor_a_job_that_does_not_name_it_gets_it(house: House) -> None:
    house.seal("API_TOKEN", TOKEN)
    async with house.running() as service:
        show = (
            'echo "it is ${API_TOKEN:-not here}"; cat /proc/self/environ | tr "\\0" "\\n" | grep -c API_TOKEN'
        )
        run = await done(service, house.send(service, "true", setup=(f"{show} || true",), **NAMES))
        log = service.shown.log_chunk(run.id, 1, 0, 10_000).data.decode()
        assert "it is not here\n0\n" in log
        other = await done(service, house.send(service, f"{show} || true"))
        assert service.shown.log_chunk(other.id, 1, 0, 10_000).data == b"it is not here\n0\n"


@story
async def test_a_secret_that_is_missing_fails_the_attempt_before_it_starts(house: House) -> None:
    house.seal("OTHER_TOKEN", TOKEN)
    async with house.running() as service:
        run = await done(service, house.send(service, "echo started", **NAMES))
        assert (run.outcome, run.reason) == (Outcome.FAILED, Reason.SECRETS)
        assert "needs the secret API_TOKEN" in run.detail
        assert "`pushtrain secret set API_TOKEN`" in run.detail
        assert not folder(house, run).started.exists()
        assert "pushtrain: secrets: The job needs" in house.result(run, "log.txt")


async def refused(house: House, told: str, **changes: object) -> None:
    async with house.running() as service:
        run = await done(service, house.send(service, SHOW_DIGEST, **{**NAMES, **changes}))
        assert (run.outcome, run.reason) == (Outcome.FAILED, Reason.SECRETS)
        assert told in run.detail
        assert TOKEN not in run.detail


@story
async def test_a_secret_for_another_branch_or_job_is_not_given(house: House) -> None:
    house.seal("API_TOKEN", TOKEN, branch="release/*")
    await refused(house, "is for every job on release/*")
    house.seal("API_TOKEN", TOKEN, job="eval", branch="**")
    await refused(house, "is for the job eval on every branch")


@story
async def test_a_secret_of_somebody_who_may_not_send_is_not_given(house: House) -> None:
    house.write_sealed("API_TOKEN", TOKEN, key=Ed25519PrivateKey.generate())
    await refused(house, "its key is not authorised here")
    reader = Ed25519PrivateKey.generate()
    house.state.create()
    Authorized(house.state.authorized).add(reader.public_key(), scopes=(Scope.READ,))
    house.write_sealed("API_TOKEN", TOKEN, key=reader)
    await refused(house, "may not send commands for this repository and branch")
    elsewhere = Ed25519PrivateKey.generate()
    Authorized(house.state.authorized).add(elsewhere.public_key(), branches=("dev",))
    house.write_sealed("API_TOKEN", TOKEN, key=elsewhere)
    await refused(house, "may not send commands for this repository and branch")


@story
async def test_whoever_can_push_cannot_take_a_secret_to_a_branch_of_his_own(house: House) -> None:
    entry = house.seal("API_TOKEN", TOKEN, branch="main")
    wide = entry.model_copy(update={"branch": "**"})
    forged = json.dumps({"version": 1, "secrets": {wide.slot: wide.model_dump(mode="json")}})
    house.secrets_file().write(lambda _: forged, message="Mine now", when=1)
    await refused(house, "is not signed by the key that it names")


@story
async def test_an_old_value_that_somebody_puts_back_is_not_given(house: House) -> None:
    house.seal("API_TOKEN", "the-old-value-that-leaked")
    before = house.secrets_file().read().text
    house.seal("API_TOKEN", TOKEN)
    async with house.running() as service:
        run = await done(service, house.send(service, SHOW_DIGEST, **NAMES))
        assert DIGEST in service.shown.log_chunk(run.id, 1, 0, 1000).data.decode()
    house.secrets_file().write(lambda _: before, message="Back again", when=1)
    await refused(house, "somebody put an old value back")


@story
async def test_a_commit_that_is_not_on_the_branch_it_claims_gets_no_secret(house: House) -> None:
    house.seal("API_TOKEN", TOKEN, branch="main")
    main = house.work.head()
    house.work.git("checkout", "--quiet", "-b", "feature")
    house.work.commit({"steal.sh": "env"})
    house.work.git("push", "--quiet", "origin", "feature")
    async with house.running() as service:
        run = await done(service, house.send(service, SHOW_DIGEST, **NAMES))  # it claims to be of main
        assert (run.outcome, run.reason) == (Outcome.FAILED, Reason.CHECKOUT)
        assert "on refs/heads/main (any more)" in run.detail
        assert not folder(house, run).given.exists()
    house.work.git("checkout", "--quiet", main)
    async with house.running() as service:
        run = await done(service, house.send(service, SHOW_DIGEST, **NAMES))
        assert run.outcome is Outcome.SUCCEEDED


@story
async def test_a_file_of_secrets_that_is_none_fails_the_run_and_says_so(house: House) -> None:
    house.secrets_file().write(lambda _: "[1, 2", message="Broken", when=1)
    await refused(house, "is no file of sealed secrets")


# --- the owner's own --------------------------------------------------------------------------------------


def keeps(house: House, **changes: object) -> Path:
    """Let the owner keep the token in a file."""
    path = house.folder / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    given = {"name": "API_TOKEN", "file": str(path), "repositories": ("localhost/*", REPOSITORY), **changes}
    secret = OwnerSecret.model_validate(given)
    house.settings = house.settings.model_copy(update={"secrets": (secret,)})
    return path


@story
async def test_an_owner_keeps_a_secret_in_a_file_for_the_jobs_that_he_names(house: House) -> None:
    path = keeps(house, jobs=("train",), branches=("main",))
    async with house.running() as service:
        run = await done(service, house.send(service, SHOW_DIGEST, **NAMES))
        assert DIGEST in service.shown.log_chunk(run.id, 1, 0, 1000).data.decode()
        assert service.store.attempts(run.id)[0].secrets == ("API_TOKEN, kept by the executor's owner",)
    path.chmod(0o640)
    await refused(house, f"chmod 600 {path}")
    path.unlink()
    await refused(house, "cannot be read")
    keeps(house, jobs=("eval",))
    await refused(house, "does not have for it")
    keeps(house, repositories=("github.com/else/*",))
    await refused(house, "does not have for it")


@story
async def test_a_sealed_secret_comes_before_the_owners(house: House) -> None:
    keeps(house)
    house.seal("API_TOKEN", "a-value-from-a-borrower")
    async with house.running() as service:
        run = await done(service, house.send(service, SHOW_DIGEST, **NAMES))
        assert hashlib.sha256(b"a-value-from-a-borrower").hexdigest() in house.result(run, "log.txt")


# --- the log ----------------------------------------------------------------------------------------------


def everything(service: ExecutorService, run: Run) -> LogChunk:
    return service.shown.log_chunk(run.id, 1, 0, 1_000_000)


@story
async def test_a_secret_in_two_writes_is_never_seen_not_even_its_first_half(house: House) -> None:
    house.seal("API_TOKEN", TOKEN)
    go = house.folder / "go"
    command = (
        'printf "key %s" "${API_TOKEN:0:11}"; ' + f"touch {house.folder}/half; "
        f"until test -e {go}; do sleep 0.02; done; "
        'printf "%s done\\n" "${API_TOKEN:11}"; printf "%s" "$API_TOKEN" | base64'
    )
    async with house.running() as service:
        run = house.send(service, command, **NAMES)
        await eventually((house.folder / "half").exists)
        there = b"key " + TOKEN[:11].encode()  # it comes by a pipe, a moment later
        await eventually(lambda: folder(house, run).log.read_bytes() == there)
        chunk = everything(service, run)
        assert (chunk.data, chunk.next_offset, chunk.complete) == (b"key ", 4, False)
        beyond = service.shown.log_chunk(run.id, 1, 9, 100)
        assert (beyond.data, beyond.next_offset) == (b"", 9)
        go.touch()
        run = await done(service, run)
        stars = "*" * len(base64.b64encode(TOKEN.encode()).rstrip(b"="))
        log = everything(service, run).data.decode()
        assert log.rstrip("=\n") == f"key {STARS} done\n{stars}"
        for offset in range(len(log)):
            assert service.shown.log_chunk(run.id, 1, offset, 3).data.decode() == log[offset : offset + 3]
        assert house.result(run, "log.txt").rstrip("=\n") == f"key {STARS} done\n{stars}"
    assert clear_text(house.state.root) == []


@story
async def test_another_life_of_the_executor_still_hides_what_was_given_before(house: House) -> None:
    entry = house.seal("API_TOKEN", TOKEN)
    go = house.folder / "go"
    command = f'echo "$API_TOKEN"; until test -e {go}; do sleep 0.02; done; echo "$API_TOKEN"'
    async with house.running() as service:
        run = house.send(service, command, **NAMES)
        await logged(service, run, STARS)
    house.secrets_file().write(lambda text: without(text, {entry.slot}), message="Gone", when=1)
    assert parse(house.secrets_file().read().text).entries == ()
    history = History(house.state)
    assert history.log_chunk(run, 1, 0, 1000).data.decode() == f"{STARS}\n", "nor does the command line"
    async with house.running() as service:
        assert everything(service, run).data.decode() == f"{STARS}\n"
        go.touch()
        run = await done(service, run)
        assert everything(service, run).data.decode() == f"{STARS}\n{STARS}\n"
        assert house.result(run, "log.txt") == f"{STARS}\n{STARS}"
    assert clear_text(house.state.root) == []


@story
async def test_a_run_that_is_prepared_anew_gets_its_secrets_anew(house: House) -> None:
    house.seal("API_TOKEN", TOKEN)
    service = house.open()
    run = house.send(service, SHOW_DIGEST, **NAMES)
    service.store.close()
    flag, note = house.folder / "stuck", house.folder / "stuck.pid"
    flag.touch()
    killable = Killable(house, environment="Stuck")
    try:
        await eventually(lambda: note.exists() and note.read_text().strip())
    finally:
        killable.kill()
    assert folder(house, run).given.exists()
    async with house.running() as service:
        run = await done(service, run)
        assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 2)
        assert DIGEST in service.shown.log_chunk(run.id, 2, 0, 1000).data.decode()


@story
async def test_when_the_key_is_lost_all_of_the_output_is_hidden(house: House) -> None:
    house.seal("API_TOKEN", TOKEN)
    go = house.folder / "go"
    command = (
        'echo "$API_TOKEN"; echo "$API_TOKEN" > "$PUSHTRAIN_RESULTS_DIR/a.txt"; '
        f'echo "$API_TOKEN" > "$PUSHTRAIN_SUMMARY"; until test -e {go}; do sleep 0.02; done'
    )
    async with house.running() as service:
        run = house.send(service, command, **NAMES)
        await logged(service, run, STARS)
    house.state.sealing_key.unlink()
    async with house.running() as service:
        assert everything(service, run).data.decode() == f"{STARS}\n"
        go.touch()
        run = await done(service, run)
        assert run.outcome is Outcome.SUCCEEDED
        assert run.id in house.result(run, "run.json")
        (artifact,) = service.shown.view(run.id).artifacts
        assert (artifact.where, "cannot be told" in artifact.why) == ("refused", True)
    assert [name for name, content in published(house) if Mask({"x": TOKEN}).found(content)] == []


@story
async def test_the_log_of_an_attempt_whose_shim_was_killed_is_cleaned_too(house: House) -> None:
    house.seal("API_TOKEN", TOKEN)
    async with house.running() as service:
        run = house.send(service, 'echo "$API_TOKEN"; sleep 60', retry={"lost": 0}, **NAMES)
        await logged(service, run, STARS)
        started = folder(house, run).read_started()
        assert started is not None
        os.kill(started.pid, signal.SIGKILL)
        run = await done(service, run)
        assert run.outcome is Outcome.LOST
        assert STARS in house.result(run, "log.txt")
    assert clear_text(house.state.root) == []


# --- what it leaves ---------------------------------------------------------------------------------------

LEAVES = """
import base64, json, os, pathlib, urllib.parse
token = os.environ["API_TOKEN"]
results = pathlib.Path(os.environ["PUSHTRAIN_RESULTS_DIR"])
quoted = urllib.parse.quote(token, safe="")
basic = base64.b64encode(b"me:" + token.encode()).decode()
(results / "notes.txt").write_text(f"a {token} b {quoted} c {basic}")
(results / "config.json").write_text(json.dumps({"key": token, "lr": 0.1}))
(results / "model.bin").write_bytes(b"\\0\\1" + token.encode() + b"\\0" * 5000)
(results / "clean.bin").write_bytes(b"\\0\\1\\2")
(results / f"{quoted}.txt").write_text("its name tells")
(results / "deep").mkdir()
(results / "deep" / "big.txt").write_text("x" * 5_000_000 + token)
pathlib.Path(os.environ["PUSHTRAIN_SUMMARY"]).write_text(f"I used {token}.")
with open(os.environ["PUSHTRAIN_METRICS"], "w") as out:
    out.write(json.dumps({"step": 1, "loss": 0.5, f"acc {token}": 1}) + "\\n")
print("token", token)
"""


@story
async def test_nothing_that_a_run_commits_holds_a_secret_in_any_form(house: House) -> None:
    house.seal("API_TOKEN", TOKEN)
    house.commit({"train.py": LEAVES})
    async with house.running() as service:
        run = await done(service, house.send(service, "python train.py", **NAMES))
        assert run.outcome is Outcome.SUCCEEDED, run.detail
        kept = {file.path: file for file in service.shown.view(run.id).artifacts}
    notes = house.result(run, "files/notes.txt")
    quoted = "*" * len("tok-9f%2B%2FZq%3F8%3DLm4_canary")
    assert notes.startswith(f"a {STARS} b {quoted} c bWU6***")
    assert json.loads(house.result(run, "files/config.json")) == {"key": STARS, "lr": 0.1}
    assert house.result(run, "files/clean.bin") == "\0\1\2"
    assert (kept["notes.txt"].hidden, kept["config.json"].hidden, kept["deep/big.txt"].hidden) == (3, 1, 1)
    assert kept["model.bin"].where == "refused"
    assert kept["model.bin"].why == ("it holds the value of API_TOKEN; leave that out of what the job saves")
    refused = [path for path, file in kept.items() if file.where == "refused" and "name" in file.why]
    assert refused == [f"{quoted}.txt"]
    report = house.result(run, "README.md")
    assert "I used \\*\\*\\*" in report or "I used ***" in report
    assert "a secret hidden at 3 places" in report
    assert set(json.loads(house.result(run, "run.json"))["metrics"]) == {"loss", f"acc {STARS}"}
    mask = Mask({"API_TOKEN": TOKEN})
    assert [one for one, content in published(house) if mask.found(content)] == []
    aside = folder(house, run).withheld
    assert sorted(path.name for path in files(aside)) == [f"{quoted}.txt", "model.bin"]
    assert clear_text(house.state.root) == [str(aside / "model.bin")], "which the owner alone can see"


@story
async def test_a_command_that_spells_the_secret_is_left_out_of_the_results(house: House) -> None:
    house.seal("API_TOKEN", TOKEN)
    async with house.running() as service:
        run = await done(service, house.send(service, f"echo {TOKEN!r}", **NAMES))
        report = house.result(run, "README.md")
    assert "the signed command is left out" in report
    names = house.work.files(house.work.fetch("pushtrain/results"))
    assert not [name for name in names if "command" in name]
    assert [one for one, content in published(house) if TOKEN.encode() in content] == []


SPELT: dict[str, dict[str, Any]] = {
    "setup": {"setup": (f"echo {TOKEN!r}; false",)},
    "a matrix value": {"cell": {"x": TOKEN}},
    "a matrix name": {"cell": {TOKEN: 1}},
    "a variable": {"env": {"X": TOKEN}},
    "the work folder": {"workdir": TOKEN},
    "a data path": {"data": (DataSource(url="http://127.0.0.1:1/x", path=f"data/{TOKEN}"),)},
    "a glob": {"results": (f"{TOKEN}/**",)},
    "a program": {"command": (TOKEN, "x")},
}


@pytest.mark.slow
@pytest.mark.parametrize("where", SPELT)
@story
async def test_a_secret_that_is_spelt_anywhere_in_a_command_is_in_no_result_and_no_commit(
    tmp_path: Path, where: str
) -> None:
    """Titles, the sentence that says why it failed, folders' names, the commit's message."""
    house = House(tmp_path)
    house.seal("API_TOKEN", TOKEN)
    fields = {"command": "exit 3", **NAMES, **SPELT[where]}
    async with house.running() as service:
        run = await done(service, house.send(service, **fields))
    assert run.outcome is Outcome.FAILED
    assert house.result(run, "README.md")
    mask = Mask({"API_TOKEN": TOKEN})
    assert [one for one, content in published(house) if mask.found(content)] == []


@story
async def test_jobs_with_secrets_share_no_cache_with_other_branches(house: House) -> None:
    house.seal("API_TOKEN", TOKEN)
    async with house.running() as service:
        write = 'echo "machine api password $API_TOKEN" > ~/.netrc'
        await done(service, house.send(service, write, **NAMES))
        plain = await done(service, house.send(service, "cat ~/.netrc 2>&1 || true"))
        assert TOKEN not in service.shown.log_chunk(plain.id, 1, 0, 1000).data.decode()
        again = await done(service, house.send(service, "cut -c1-11 ~/.netrc", **NAMES))
        assert service.shown.log_chunk(again.id, 1, 0, 1000).data == b"machine api\n"


@story
async def test_a_requeue_or_a_cancel_leaves_no_secret_in_the_log(house: House) -> None:
    house.seal("API_TOKEN", TOKEN)
    async with house.running() as service:
        run = house.send(service, 'echo "$API_TOKEN"; sleep 60', **NAMES)
        await logged(service, run, STARS)
        service.cancel(run.id, by="ada")
        run = await done(service, run)
        assert STARS in house.result(run, "log.txt")
    assert clear_text(house.state.root) == []


@story
async def test_the_log_of_an_earlier_attempt_is_published_without_its_secrets(house: House) -> None:
    house.seal("API_TOKEN", TOKEN)
    async with house.running() as service:
        again = Retry(failed=1, backoff=0.01)
        run = await done(service, house.send(service, 'echo "$API_TOKEN"; exit 3', retry=again, **NAMES))
        assert (run.attempt, house.result(run, "log-1.txt")) == (2, STARS)
    assert clear_text(house.state.root) == []
