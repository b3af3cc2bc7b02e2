"""`pushtrain init`: write a commented pushtrain.toml by looking at the repository."""

import json as jsons
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pushtrain.cli.clone import open_clone
from pushtrain.cli.look import Looked, look
from pushtrain.cli.options import Json
from pushtrain.cli.screen import render
from pushtrain.core.errors import Conflict
from pushtrain.core.jobs.jobfile import FILE, parse
from pushtrain.core.jobs.schema import URL
from pushtrain.core.text.patterns import literal
from pushtrain.plumbing.attempts.records import write_bytes

_REFERENCE = "https://github.com/pushtrain/pushtrain/blob/main/docs/pushtrain-toml.md"


def init(
    *,
    force: Annotated[bool, Parameter(negative="", help="Replace a file that is there.")] = False,
    json: Json = False,
) -> None:
    """Write a commented pushtrain.toml by looking at this repository.

    It finds the training script and the environment, and starts the job on pushes to the default branch
    unless only documents changed. Nothing is committed; read it, edit it, then commit.
    """
    clone = open_clone(Path.cwd())
    path = clone.root / FILE
    if not force and (path.exists() or path.is_symlink()):
        raise Conflict(
            f"{FILE} is there already.", mend="Edit it, or replace it with `pushtrain init --force`."
        )
    branch = clone.default_branch()
    looked = look(clone.root, clone.files())
    text = compose(looked, branch)
    parse(text)
    write_bytes(path, text.encode())
    path.chmod(0o644)
    if json:
        render.emit_json(
            {
                "path": str(path),
                "command": looked.command,
                "environment": looked.environment,
                "branch": branch,
                "found": looked.found,
            }
        )
        return
    render.plain(f"Wrote {FILE}. Found:")
    for reason in (*looked.found, f"{branch}: the default branch; pushes to it start the job"):
        render.plain(f"  {reason}")
    render.plain(
        "\nNext:\n"
        f"  edit {FILE}      the command, the results to keep\n"
        "  pushtrain check          what a push would start, and why\n"
        f"  git add {FILE} && git commit\n"
        "  pushtrain up             watch this repository and train on this machine"
    )


def compose(looked: Looked, branch: str) -> str:
    """The file's text."""
    quoted = jsons.dumps(looked.command, ensure_ascii=False)
    command = f"'{looked.command}'" if '"' in looked.command and "'" not in looked.command else quoted
    todo = "# There was no training script to go by: write your command here.\n" if looked.guessed else ""
    results = jsons.dumps(looked.results) if looked.results else '["outputs/**", "*.png"]'
    return f"""\
#:schema {URL}
# What a `git push` starts here. Every key: {_REFERENCE}
# `pushtrain check` tells what a push would start, and why.

[job.train]
{todo}command = {command}

# What the command runs in: "auto", "system", {{uv = "."}}, {{requirements = "requirements.txt"}},
# {{script = "train.py"}}, {{conda = "environment.yml"}} or {{named = "…"}}.
environment = {looked.environment}

# Python prints each line at once, so that `pushtrain logs -f` is live.
env = {{ PYTHONUNBUFFERED = "1" }}

# Files to keep; everything in the folder $PUSHTRAIN_RESULTS_DIR is kept too.
{"" if looked.results else "# "}results = {results}

# How long training may last; preparation does not count.
# timeout = "2h"

# What the machine must have.
# gpus = 1
# gpu_memory = "8GB"

# Data, fetched once and cached; `pushtrain data add URL` measures the digest and writes the entry.
# data = [{{url = "https://example.org/train.csv", sha256 = "…", path = "data/train.csv"}}]
{"submodules = true" if looked.submodules else "# submodules = true"}

# Pushes to the default branch start it, unless only documents changed.
[job.train.on.push]
branches = [{jsons.dumps(literal(branch), ensure_ascii=False)}]
paths-ignore = ["**.md"]

# One run for each value; use it in the command as ${{{{ matrix.lr }}}}.
# [job.train.matrix]
# lr = [0.1, 0.01]
"""
