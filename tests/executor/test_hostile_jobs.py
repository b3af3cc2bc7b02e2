"""What a job tries on the executor that collects, publishes and shows what it left, in whole attempts."""

import os
import shutil
import sys
from pathlib import Path

import pexpect
import pytest
from executor_house import House, done, story

from pushtrain.core.values.states import Outcome

WATCH = """#!/bin/sh
if [ -z "$PUSHTRAIN_ATTEMPT_ID" ]; then
    {{ printf 'cwd=%s' "$(pwd -P)"; env | grep -a '^GIT_' | sed 's/^/\\x1f/' | tr -d '\\n'
       for word; do printf '\\x1f%s' "$word"; done; printf '\\0'; }} >> {log}
fi
exec {git} "$@"
"""

PLANT = r"""
import os, pathlib, stat
touch = "touch " + os.environ["WITNESS"]
config = f'''[core]
	repositoryformatversion = 0
	bare = true
	fsmonitor = {touch}
	sshCommand = {touch}
	hooksPath = hooks
	pager = {touch}
	editor = {touch}
	attributesFile = attributes
	worktree = /
[filter "evil"]
	clean = {touch}
	smudge = {touch}
	process = {touch}
	required = true
[diff "evil"]
	textconv = {touch}
	command = {touch}
[credential]
	helper = !{touch}
[include]
	path = other
[uploadpack]
	packObjectsHook = {touch}
[gpg]
	program = {touch}
[lfs]
	customtransfer.evil.path = {touch}
'''
hooks = ["pre-push", "post-checkout", "post-index-change", "reference-transaction", "pre-receive", "update",
         "post-receive", "pre-commit", "prepare-commit-msg", "post-commit", "push-to-checkout"]

def repository(folder):
    for name in ("objects", "refs/heads", "hooks", "info"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "HEAD").write_text("ref: refs/heads/main\n")
    (folder / "config").write_text(config)
    (folder / "info" / "attributes").write_text("* filter=evil diff=evil\n")
    for name in hooks:
        (folder / "hooks" / name).write_text(f"#!/bin/sh\n{touch}\n")
        (folder / "hooks" / name).chmod(0o755)

places = [os.environ["PUSHTRAIN_DATA_DIR"], os.environ["PUSHTRAIN_RESULTS_DIR"], os.environ["HOME"],
          os.environ["TMPDIR"], os.environ["PUSHTRAIN_CHECKPOINT_DIR"]]
for place in map(pathlib.Path, places):
    repository(place)           # an embedded bare repository: git would take the folder itself for one
    repository(place / ".git")
    repository(place / "sub" / "bare.git")
    (place / ".gitattributes").write_text("* filter=evil diff=evil\n")
    (place / ".gitmodules").write_text(f'[submodule "x"]\n\tpath = x\n\turl = ../x\n\tupdate = !{touch}\n')
    (place / ".lfsconfig").write_text(f"[lfs]\n\turl = ext::{touch}\n")
    (place / ".gitconfig").write_text(config)
(pathlib.Path(os.environ["PUSHTRAIN_RESULTS_DIR"]) / "honest.txt").write_text("honest\n")
print("planted")
"""


@pytest.mark.slow
@story
async def test_git_never_runs_where_a_job_can_write_and_nothing_that_a_job_plants_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness, log = tmp_path / "witness", tmp_path / "git.log"
    house = House(tmp_path / "house")
    house.commit({"plant.py": PLANT})
    real = shutil.which("git")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").write_text(WATCH.format(log=log, git=real))
    (tmp_path / "bin" / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    async with house.running() as service:
        for number in range(2):  # the second one meets what the first one planted in its home and caches
            env = {"WITNESS": str(witness)}
            command = (sys.executable, "plant.py")
            run = await done(service, house.send(service, command, env=env, results=("**", "sub")), 90)
            assert run.outcome is Outcome.SUCCEEDED, run.detail
            house.commit({"next": str(number)})
    assert not witness.exists()
    assert house.result(run, "files/honest.txt") == "honest"
    calls = [line.split("\x1f") for line in log.read_text().split("\0") if line]
    assert len(calls) > 5
    runs, caches = house.state.runs.resolve(), house.state.caches.resolve()
    for cwd, *words in calls:
        touched = [Path(cwd.removeprefix("cwd=")), *(Path(word.partition("=")[2] or word) for word in words)]
        for path in touched:
            if path.is_absolute():
                assert not path.is_relative_to(runs), words
                assert not path.is_relative_to(caches), words
    refused = house.result(run, "run.json")
    assert "its name is one of Git's own" in refused


HOSTILE_LOG = r"""
import sys
sys.stdout.write("\x1b[31mred\x1b[0m\n\x1b]0;owned\x07\x1b[2J\x1b[H$ forged prompt\n\x1b[6n")
sys.stdout.write("\x1b]52;c;ZXZpbA==\x07end\n")
"""


@story
async def test_the_log_of_a_hostile_job_does_not_steer_the_readers_terminal(
    tmp_path: Path,
) -> None:
    house = House(tmp_path / "house")
    house.commit({"train.py": HOSTILE_LOG})
    async with house.running() as service:
        run = await done(service, house.send(service, (sys.executable, "train.py")))
    words = ["-P", "-m", "pushtrain", "logs", run.short, "--state", str(house.state.root)]
    shown = str(pexpect.run(" ".join([sys.executable, *words]), encoding="utf-8", timeout=60))
    assert "\x1b[31mred\x1b[0m" in shown
    assert "forged prompt" in shown
    assert "end" in shown
    for sequence in ("\x1b]", "\x1b[2J", "\x1b[H", "\x1b[6n", "\x07"):
        assert sequence not in shown
    raw = str(pexpect.run(" ".join([sys.executable, *words, "--raw"]), encoding="utf-8", timeout=60))
    assert "\x1b]0;owned\x07" in raw


@story
async def test_a_name_that_is_no_text_in_an_error_is_told_and_ends_the_run(tmp_path: Path) -> None:
    """A submodule without URL whose name is not UTF-8: its error is logged, stored, published and sent."""
    house = House(tmp_path / "house")
    work = house.work
    name = os.fsdecode(b"lib-\xff-\x1b]0;owned\x07")
    work.git("update-index", "--add", "--cacheinfo", f"160000,{work.head()},{name}")
    work.git("commit", "-qm", "a link to nowhere")
    work.push()
    async with house.running() as service:
        run = await done(service, house.send(service, ("true",), submodules=True), 60)
    assert run.outcome is Outcome.FAILED
    assert "lib-" in run.detail
    run.model_dump_json().encode()
    assert "\x1b" not in run.detail
    assert "\x1b" not in house.result(run, "README.md")
