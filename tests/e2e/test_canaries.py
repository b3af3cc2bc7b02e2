"""A whole line with a distinctive credential wherever one can be: none of them shows anywhere it should not.

What is looked at: the arguments of every process (by wrappers of the programs that we call, and by looking at
`/proc` all the while), what every process said, the state folders with their stores, every object on the
origin, the executor's answers, and what the verbs print.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomlkit
from house import AT_THE_GATE, SECRET, House, Work, housed, open_gate

from pushtrain.core.text.redact import Mask
from pushtrain.core.values.states import Outcome, State
from pushtrain.plumbing.keys.authorized import Trusted, load_or_create
from pushtrain.testing import wait_until
from status_host import TOKEN as STATUS_TOKEN
from status_host import StatusApi, serving_statuses

pytestmark = pytest.mark.slow

SEALED = "sealed-canary-9f+/Zq?8=Lm4"
KEPT = "kept-canary-Xy7-Qw2"
HF = "hf_canaryHuggingFaceToken01"
NGROK = "2ngrokCanaryAuthtoken_33Zz"
WRAPPED = ("git", "bwrap", "bash", "ssh", "uv", "git-lfs")
JOBS = """
[job.train]
command = "python3 train.py"
environment = "system"
secrets = ["API_KEY", "KEPT_KEY"]
results = ["out/**"]
"""
TRAIN = f"""
import base64, json, os, pathlib, subprocess, sys, time
for name in ("API_KEY", "KEPT_KEY"):
    value = os.environ[name]
    print(name, "is", value, base64.b64encode(b"me:" + value.encode()).decode(), flush=True)
    sys.stdout.write(value[:9]); sys.stdout.flush(); time.sleep(0.05); print(value[9:])
subprocess.run(["env"])
out = pathlib.Path("out"); out.mkdir()
(out / "notes.json").write_text(json.dumps(dict(os.environ)))
(out / "model.bin").write_bytes(b"\\0" + os.environ["API_KEY"].encode())
pathlib.Path(os.environ["PUSHTRAIN_SUMMARY"]).write_text("with " + os.environ["API_KEY"])
print("ready", flush=True)
subprocess.run(["bash", "-c", {AT_THE_GATE!r}])
"""


class Arguments:
    """The arguments of every process that was seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "wrappers"
        self.folder.mkdir()
        self.log = folder / "arguments"
        self.log.touch()
        for name in WRAPPED:
            if (real := shutil.which(name)) is not None:
                script = self.folder / name
                note = f'{{ printf \'%s\\0\' "$0" "$@"; echo; }} >>{self.log}'
                script.write_text(f'#!/bin/sh\n{note}\nexec {real} "$@"\n')
                script.chmod(0o755)
        self._seen: set[bytes] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._stop.wait(0.003):
            for entry in os.scandir("/proc"):
                if entry.name.isdigit():
                    try:
                        with open(f"/proc/{entry.name}/cmdline", "rb") as file:  # noqa: PTH123  many, quickly
                            self._seen.add(file.read())
                    except OSError:
                        continue

    def all(self) -> bytes:
        self._stop.set()
        self._thread.join()
        return self.log.read_bytes() + b"\n".join(self._seen)


@pytest.fixture
def api() -> Iterator[StatusApi]:
    with serving_statuses() as api:
        yield api


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Arguments:
    found = Arguments(tmp_path)
    monkeypatch.setenv("PATH", f"{found.folder}:{os.environ['PATH']}")
    return found


@pytest.fixture
def house(
    tmp_path: Path, arguments: Arguments, api: StatusApi, monkeypatch: pytest.MonkeyPatch
) -> Iterator[House]:
    assert arguments.folder.is_dir()  # before the first process
    for name, value in {
        "PUSHTRAIN_HOST_TOKEN": STATUS_TOKEN,
        "HF_TOKEN": HF,
        "NGROK_AUTHTOKEN": NGROK,
        "PUSHTRAIN_WEBHOOK_SECRET": SECRET,
    }.items():
        monkeypatch.setenv(name, value)
    with housed(tmp_path) as house:
        kept = tmp_path / "kept-by-the-owner"
        kept.write_text(KEPT)
        kept.chmod(0o600)
        document = {
            "repositories": [{"key": f"{api.host}/ada/r0", "remote": house.remotes[0]}],
            "executor": {"status_api": api.url, "port": 0, "name": "lab-1", "tunnel": "none"},
            "secrets": [{"name": "KEPT_KEY", "file": str(kept), "repositories": ["**"]}],
        }
        house.executor_state.settings.write_text(tomlkit.dumps(document))
        yield house


def start(house: House, api: StatusApi) -> None:
    house.executor_state.card.unlink(missing_ok=True)
    out = house.start("executor", "executor", "--state", house.executor_state.root)
    house.facts("executor", out)
    card = json.loads(house.executor_state.card.read_text())
    key = load_or_create(house.executor_state.key).public_key()
    Trusted(house.sender_state.trusted).add(key, name="lab-1")
    served = {"key": f"{api.host}/ada/r0", "remote": house.remotes[0]}
    executor = {"url": card["public_url"], "public_key": card["public_key"]}
    document = {"repositories": [served], "sender": {"executors": [executor]}}
    house.sender_state.settings.write_text(tomlkit.dumps(document))


def set_secret(house: House) -> str:
    """`pushtrain secret set`, the value by a pipe; what it printed."""
    done = subprocess.run(
        (sys.executable, "-P", "-m", "pushtrain", "secret", "set", "API_KEY", "--branch", "main"),
        env={
            **os.environ,
            "PUSHTRAIN_GIT_TOKEN": house.host.token,
            "PUSHTRAIN_STATE": str(house.sender_state.root),
        },
        cwd=house.folder,
        input=f"{SEALED}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def objects(repository: Path) -> Iterator[bytes]:
    """Every object of a repository."""

    def git(*words: str) -> bytes:
        argv = ("git", f"--git-dir={repository}", *words)
        return subprocess.run(argv, check=True, capture_output=True).stdout

    listed = git("cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objecttype)")
    for line in listed.decode().splitlines():
        name, kind = line.split()
        yield git("cat-file", kind, name)


def test_no_credential_shows_anywhere_on_a_whole_line(
    house: House, api: StatusApi, arguments: Arguments
) -> None:
    mask = Mask(
        {
            "git": house.host.token,
            "status": STATUS_TOKEN,
            "ngrok": NGROK,
            "hugging face": HF,
            "webhook": SECRET,
            "sealed": SEALED,
            "kept": KEPT,
        }
    )
    start(house, api)
    said = [set_secret(house)]
    work = Work(house, 0)
    said.append(json.dumps(house.start_sender(poll_seconds=0.5, webhook=False)))
    house.wait(lambda: "is watched" in house.log("sender"), "the sender to look")
    commit = work.pushed(files={"pushtrain.toml": JOBS, "train.py": TRAIN})
    client = house.client(house.executor_state)
    run = house.wait(lambda: next(iter(client.runs(find=commit)), None), "the run")

    def ready() -> bool:
        return b"ready" in client.log(run.id).data

    house.wait(ready, "the job to have printed everything")
    ours = [path for path in inside(house) if path.name != "log.txt" and "/job/" not in str(path)]
    while_it_runs = [path.read_bytes() for path in ours]  # but what the job itself has written
    said.append(client.log(run.id).data.decode("latin-1"))
    house.kill("executor")
    open_gate(house.executor_state)
    start(house, api)
    client = house.client(house.executor_state)
    wait_until(lambda: client.view(run.id).run.state is State.DONE, 60, what="the run to be published")
    view = client.view(run.id)
    assert view.run.outcome is Outcome.SUCCEEDED, client.log(run.id).data
    assert {file.path: file.where for file in view.artifacts} == {
        "out/notes.json": "git",
        "out/model.bin": "refused",
    }
    said += [view.model_dump_json(), client.log(run.id).data.decode("latin-1")]
    said += [f"{got}" for got in api.got]
    for state in (house.executor_state, house.sender_state):
        for words in (
            "doctor",
            "doctor --json",
            "executor card --json",
            "executor secrets",
            "secret list --json --repo " + house.remotes[0],
            "show --json " + run.short,
            "logs " + run.short,
            "ps --json",
            "key list",
        ):
            done = house.cli(*words.split(), state=state)
            said += [done.stdout, done.stderr]
    assert "lab-1" in "".join(said)
    house.end()

    told = [path.read_bytes() for path in house.folder.iterdir() if path.suffix in {".log", ".out"}]
    argv = arguments.all()
    assert b"git" in argv
    assert b"train.py" in argv
    assert mask.found(argv) == (), "in the arguments of a process"
    for text in (*(words.encode() for words in said), *told):
        assert mask.found(text) == (), mask.hide(text)
    assert [mask.found(content) for content in while_it_runs if mask.found(content)] == [], "on the disk"
    left = {str(path): mask.found(path.read_bytes()) for path in inside(house)}
    aside = {path: names for path, names in left.items() if names}
    assert list(aside.values()) == [("sealed",)], aside
    assert next(iter(aside)).endswith("withheld/out/model.bin")
    origins = [found for found in objects(house.host.folder("ada/r0")) if mask.found(found)]
    assert origins == []


def inside(house: House) -> list[Path]:
    """Every file of both state folders, but those that are keys."""
    roots = (house.executor_state.root, house.sender_state.root)
    found = [path for root in roots for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in found if path.suffix != ".key" and path.name != "webhook.secret"]
