"""`pushtrain.toml`: what it may say, what each key becomes, and what a person is told of a mistake."""

import contextlib
import json
import re
import resource
import time
import tomllib
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from pushtrain.core import jobfile
from pushtrain.core.errors import ConfigError, NotFound
from pushtrain.core.jobfile import JobFile, expand, parse
from pushtrain.core.jobspec import (
    DataSource,
    EnvironmentKind,
    EnvironmentSpec,
    JobSpec,
    Launcher,
    PreemptSignal,
    Resources,
    ResultsTarget,
    Retry,
)
from pushtrain.core.schema import json_schema
from pushtrain.core.states import Reason
from pushtrain.core.triggers import PushTrigger, Triggers

DIGEST = "0123456789abcdef" * 4


def job(text: str, *, head: str = "") -> str:
    """A file with one job that has `text` below its command."""
    command = "" if "command =" in text else 'command = "python train.py"\n'
    return f"{head}[job.train]\n{command}{text}\n"


def only(text: str) -> JobSpec:
    return parse(job(text)).jobs[0].spec


def refused(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return caught.value


# --- what may be said -------------------------------------------------------------------------------------


def test_the_smallest_file_is_a_command() -> None:
    file = parse('[job.train]\ncommand = "python train.py"\n')
    assert file == JobFile(
        jobs=(jobfile.Job(name="train", spec=JobSpec(name="train", command="python train.py")),)
    )
    assert expand(file.jobs[0]) == (file.jobs[0].spec,)


def test_every_key_becomes_its_value() -> None:
    file = parse(
        f"""
        [results]
        branch = "ml/results"
        repository = "github.com/octo/results"
        path = "./runs/"
        artifacts = "s3://bucket/prefix"

        [job.train]
        command = ["python", "train.py"]
        workdir = "models//a/"
        setup = ["make data", "nvidia-smi"]
        env = {{EPOCHS = 5, RATE = 0.1, DEBUG = true, NAME = "x"}}
        gpus = 2
        gpu_memory = "8GB"
        cpus = 1.5
        memory = "16 GiB"
        gpu_capability = 8.0
        launcher = "torchrun"
        priority = -3
        labels = ["a100", "nvlink"]
        timeout = "1h30m"
        results = ["outputs/**", "./*.png"]
        submodules = true
        lfs = false
        environment = {{uv = "./", groups = ["train"], extras = ["cuda"], python = "3.12"}}
        data = [
            {{url = "https://h.org/a.csv", sha256 = "{DIGEST.upper()}", path = "data/a.csv"}},
            {{url = "s3://bucket/set/", manifest = "SHA256SUMS", path = "data/set"}},
            {{url = "https://h.org/b.tar.gz", path = "data/b", unpack = true}},
            {{mount = "imagenet", path = "data/imagenet"}},
        ]
        on = {{push = {{branches = ["main"], tags = ["v*"], paths-ignore = ["**.md"]}}, manual = false}}
        """
    )
    target = ResultsTarget(
        branch="ml/results", repository="github.com/octo/results", path="runs", artifacts="s3://bucket/prefix"
    )
    assert file.results == target
    assert file.jobs[0].on == Triggers(
        push=PushTrigger(branches=("main",), tags=("v*",), paths_ignore=("**.md",)), manual=False
    )
    assert file.jobs[0].spec == JobSpec(
        name="train",
        command=("python", "train.py"),
        workdir="models/a",
        setup=("make data", "nvidia-smi"),
        env={"EPOCHS": "5", "RATE": "0.1", "DEBUG": "true", "NAME": "x"},
        resources=Resources(
            gpus=2,
            gpu_memory=8 * 10**9,
            gpu_capability="8.0",
            cpus=1.5,
            memory=16 * 2**30,
            labels=("a100", "nvlink"),
        ),
        launcher=Launcher.TORCHRUN,
        priority=-3,
        timeout=5400,
        results=("outputs/**", "*.png"),
        submodules=True,
        lfs=False,
        results_to=target,
        environment=EnvironmentSpec(
            kind=EnvironmentKind.UV, file=".", python="3.12", groups=("train",), extras=("cuda",)
        ),
        data=(
            DataSource(url="https://h.org/a.csv", sha256=DIGEST, path="data/a.csv"),
            DataSource(url="s3://bucket/set/", manifest="SHA256SUMS", path="data/set"),
            DataSource(url="https://h.org/b.tar.gz", path="data/b", unpack=True),
            DataSource(mount="imagenet", path="data/imagenet"),
        ),
    )


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        ('"auto"', EnvironmentSpec()),
        ('"system"', EnvironmentSpec(kind=EnvironmentKind.SYSTEM)),
        ('"uv"', EnvironmentSpec(kind=EnvironmentKind.UV, file=".")),
        ('{uv = "sub"}', EnvironmentSpec(kind=EnvironmentKind.UV, file="sub")),
        (
            '{requirements = "requirements.txt", python = "3.12"}',
            EnvironmentSpec(kind=EnvironmentKind.REQUIREMENTS, file="requirements.txt", python="3.12"),
        ),
        ('{script = "train.py"}', EnvironmentSpec(kind=EnvironmentKind.SCRIPT, file="train.py")),
        ('{conda = "environment.yml"}', EnvironmentSpec(kind=EnvironmentKind.CONDA, file="environment.yml")),
        ('{named = "torch-2.5"}', EnvironmentSpec(kind=EnvironmentKind.NAMED, name="torch-2.5")),
    ],
)
def test_an_environment_is_a_word_or_a_table(text: str, environment: EnvironmentSpec) -> None:
    assert only(f"environment = {text}").environment == environment


@pytest.mark.parametrize(
    ("text", "on"),
    [
        ("", Triggers(push=PushTrigger(branches=("**",)))),
        ('on = "push"', Triggers(push=PushTrigger())),
        ('on = "manual"', Triggers(push=None)),
        ('on = ["push", "manual"]', Triggers(push=PushTrigger())),
        ("on = {push = true, manual = false}", Triggers(push=PushTrigger(), manual=False)),
        ("on = {push = false}", Triggers(push=None)),
        ("on = {}", Triggers(push=None)),
        ('[job.train.on.push]\nbranches = ["main"]', Triggers(push=PushTrigger(branches=("main",)))),
        (
            '[job.train.on.push]\nbranches-ignore = ["x"]\ntags-ignore = ["y"]\npaths = ["**", "!z"]',
            Triggers(push=PushTrigger(branches_ignore=("x",), tags_ignore=("y",), paths=("**", "!z"))),
        ),
    ],
)
def test_triggers_are_said_as_in_actions(text: str, on: Triggers) -> None:
    assert parse(job(text)).jobs[0].on == on


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5", 1.5), ('"90s"', 90), ('"30m"', 1800), ('"1h30m"', 5400), ('"2D"', 172_800)],
)
def test_a_timeout_is_seconds_or_text_with_units(text: str, seconds: float) -> None:
    assert only(f"timeout = {text}").timeout == seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('"8GB"', 8 * 10**9),
        ('"8GiB"', 8 * 2**30),
        ('"1.5 TB"', 15 * 10**11),
        ('"500 kB"', 500_000),
        ('"7B"', 7),
        ("8000000000", 8 * 10**9),
        ("0", 0),
    ],
)
def test_a_size_is_bytes_or_text_with_a_unit(text: str, count: int) -> None:
    assert only(f"memory = {text}").resources.memory == count


def test_several_jobs_keep_the_files_order_and_are_found_by_name() -> None:
    file = parse('[job.b]\ncommand = "b"\n[job.a]\ncommand = "a"\n')
    assert [found.name for found in file.jobs] == ["b", "a"]
    assert file.job("a").spec.command == "a"
    with pytest.raises(NotFound, match="no job `bb`") as caught:
        file.job("bb")
    assert "`b`" in caught.value.mend


def test_bytes_with_a_byte_order_mark_are_read() -> None:
    assert parse(b'\xef\xbb\xbf[job.a]\ncommand = "a"\n') == parse('[job.a]\ncommand = "a"\n')


def test_shell_text_with_braces_is_left_alone() -> None:
    text = "echo ${HOME} $((1 + 2)) {{x}} ${{ never closed"
    job_with_matrix = job(f"command = '{text}'\n[job.train.matrix]\na = [1]")
    assert expand(parse(job_with_matrix).jobs[0])[0].command == text


# --- mistakes ---------------------------------------------------------------------------------------------

# (text below `[job.train]`, what the message says, whether the schema sees it too)
MISTAKES = [
    ('timout = "30m"', '`job.train.timout = "30m"` is not a known key. Did you mean `timeout`?', True),
    ("xyzzy = 1", "is not a known key. Known here: `command`, `workdir`", True),
    ('run = "x"', "Did you mean `command`?", True),
    ("strategy = {}", "`[job.NAME.matrix]`", True),
    ('command = ""', '`job.train.command = ""` is blank', True),
    ("command = []", "`job.train.command = []` is empty", True),
    ('command = ["a", 1]', "holds an argument that is a number, not text", True),
    ("command = 5", "`job.train.command = 5` is a number, not text", True),
    ('command = "a\\u0000b"', "holds a NUL character", False),
    ('workdir = "/abs"', "is not a relative path", True),
    ('workdir = "a/../.."', "leads out of the repository", True),
    ('workdir = "a\\\\b"', "is not a relative path", True),
    ('workdir = "C:/x"', "is not a relative path", True),
    ("workdir = 3", "is a number, not text", True),
    ('setup = "make"', 'is not a list. Write a list of texts, as in `setup = ["make data"]`', True),
    ('setup = [""]', "holds an entry that is blank", True),
    ('labels = ["a", "a"]', "holds an entry twice", False),
    ('labels = ["a b"]', "is not a label", True),
    ("env = []", "is a list, not a table", True),
    ('env = {"1A" = "x"}', "is not a variable's name", True),
    ('env = {PUSHTRAIN_X = "x"}', "is a name that pushtrain sets itself", True),
    ('env = {PUSHTRAIN = "x"}', "is a name that pushtrain sets itself", True),
    ("env = {A = [1]}", "is a list, not text, a number, true or false", True),
    ("env = {A = 9007199254740993}", "beyond 2^53", False),
    ("env = {A = inf}", "is not a finite number", False),
    ("env = {A = 2026-01-01}", "is a date or a time", False),
    ('gpus = "1"', "is not a whole number from 0 to 64", True),
    ("gpus = true", "is not a whole number from 0 to 64", True),
    ("gpus = -1", "is not a whole number from 0 to 64. Write for example `gpus = 1`", True),
    ("cpus = 1e9", "is not a number from 0 to 4096", True),
    ('min_isolation = "strong"', "is not a level of isolation", True),
    ("min_isolation = 1", "is not a level of isolation", True),
    ("cpus = nan", "is not a number from 0 to 4096", False),
    ("gpus = 1\ngpu_memory = 8", 'would be bytes, too few for any job. Write a unit, as in "8GB"', True),
    ('gpus = 1\ngpu_memory = "8G"', "is not a size", True),
    ('memory = "99999999999999TB"', "is not a size that a machine can have", False),
    ("memory = -1", "is not a size that a machine can have", True),
    ("memory = 1.5", "is not a size", True),
    ('gpu_memory = "8GB"', "asks for memory of no GPU", False),
    ('gpu_capability = "8.9"', "asks something of no GPU. Write `gpus = 1` too", False),
    ('gpus = 1\ngpu_capability = "ampere"', "is no compute capability. Write it as", True),
    ("gpus = 1\ngpu_capability = true", "is no compute capability", True),
    ('gpus = 2\ngpu_memory = "8GB"\ngpu_share = true', "needs one GPU and its memory", False),
    ("gpus = 1\ngpu_share = true", "Write `gpus = 1` and what it uses at most", False),
    ('gpus = 1\nlauncher = "mpirun"', 'is no launcher. Write "torchrun", or leave it out', True),
    ('launcher = "torchrun"', "starts a process for each GPU", False),
    (
        "priority = 200",
        "is not a whole number from -100 to 100. Write `priority = 100` or less.",
        True,
    ),
    (
        "priority = -101",
        "is not a whole number from -100 to 100. Write for example `priority = 1`.",
        True,
    ),
    ("cpus = inf", "is not a number from 0 to 4096. Write `cpus = 4096` or less.", False),
    ('timeout = "soon"', '`job.train.timeout = "soon"` is not a duration', True),
    ('timeout = ""', "duration", True),
    ("timeout = 0", "is not a duration between nothing and ten years", True),
    ("timeout = true", "duration", True),
    ('timeout = "999999d"', "is not a duration between nothing and ten years", False),
    ("timeout = 1e300", "is not a duration between", True),
    ('results = ["/abs"]', "is not a relative path", True),
    ('results = ["../x"]', "leads out of the repository", True),
    ('results = [".git/config"]', "lies in .git", False),
    ('results = ["a\\u001b[31m"]', "holds a control character", True),
    (f'setup = {["a"] * 300}', "has 300 entries; at most 256 are read", False),
    (f'command = "{"x" * 100_001}"', "is longer than 100000 bytes", False),
    (f"data = [{'{}, ' * 300}]", "has 300 entries; at most 256 are read", True),
    (f"matrix = {{{', '.join(f'a{at} = [1]' for at in range(65))}}}", "has 65 names; at most 64", False),
    ('results = "x"', "is not a list", True),
    ('lfs = "yes"', "is neither true nor false. Write `lfs = true`", True),
    ("data = {}", "is not a list of tables", True),
    ('data = [{path = "a"}]', "needs exactly one of `url` and `mount`", True),
    ('data = [{url = "https://h/x", mount = "m", path = "a"}]', "needs exactly one of", True),
    ('data = [{url = "https://h/x"}]', "has no `path`", True),
    ('data = [{url = "ftp://h/x", path = "a"}]', "is not a URL of a known kind", True),
    ('data = [{url = "https://h/a b", path = "a"}]', "is not a URL of a known kind", True),
    ("data = [{url = 5, path = 'a'}]", "is not a URL of a known kind", True),
    ('data = [{url = "https://me:hunter2@h/x", path = "a"}]', "holds a user or a password", True),
    ('data = [{url = "https://h/x/", path = "a"}]', "names a folder", True),
    ('data = [{url = "https://h/x", manifest = "m", path = "a"}]', "goes with a folder only", True),
    ('data = [{url = "https://h/x/", manifest = "m", unpack = true, path = "a"}]', "`manifest`", False),
    ('data = [{url = "https://h/x", sha256 = "abc", path = "a"}]', "is not a SHA-256 digest", True),
    ('data = [{url = "https://h/x", path = "/a"}]', "is not a relative path", True),
    ('data = [{url = "https://h/x", path = "../a"}]', "leads out of the repository", True),
    ('data = [{url = "https://h/x", path = "."}]', "is the repository's root itself", False),
    ('data = [{url = "https://h/x", path = "a", sha = "x"}]', "Did you mean `sha256`?", True),
    ('data = [{mount = "m", path = "a", sha256 = "x"}]', "is not a SHA-256 digest", True),
    ('data = [{mount = "m", path = "a", unpack = true}]', "does not go with `mount`", True),
    ('data = [{mount = "a b", path = "a"}]', "is not a name", True),
    ('data = [{mount = "m", path = "a"}, {mount = "n", path = "./a/"}]', "is taken twice", False),
    ('data = [{mount = "m", path = "a/b"}, {mount = "n", path = "a"}]', "overlaps with `a/b`", False),
    ('data = [{mount = "m", path = "a"}, {mount = "n", path = "a/b"}]', "overlaps with `a`", False),
    ('environment = "docker"', "is not an environment", True),
    ("environment = 3", "is a number, not text or a table", True),
    ("environment = {}", "names no way to build it", True),
    ('environment = {uv = ".", conda = "e.yml"}', "names `uv`, `conda` at once", True),
    ('environment = {conda = "e.yml", python = "3.12"}', "does not go with `conda`", True),
    ('environment = {script = "t.py", groups = ["a"]}', "does not go with `script`", True),
    ('environment = {uv = ".", python = 3.12}', 'Write it in quotes: `python = "3.12"`', True),
    ('environment = {uv = ".", python = "python3"}', "is not a Python version", True),
    ('environment = {uv = ".", pip = "x"}', "Did you mean `requirements`?", True),
    ('environment = {requirements = "/r.txt"}', "is not a relative path", True),
    ('environment = {named = "a/b"}', "is not a name", True),
    ('on = "pull_request"', "names an unknown trigger", True),
    ('on = "pusch"', "Did you mean `push`?", True),
    ("on = []", "is empty", True),
    ("on = [1]", "names an unknown trigger", True),
    ("on = 1", "is a number, not text or a table", True),
    ("on = {push = 1}", "is a number, not a table", True),
    ("on = {pull_request = {}}", "Only pushes start jobs", True),
    ('on = {branches = ["main"]}', "is not a known key", True),
    ('on = {push = {paths_ignore = ["x"]}}', "Did you mean `paths-ignore`?", True),
    ('on = {push = {branches = "main"}}', "is not a list", True),
    ("on = {push = {branches = []}}", "is empty", True),
    ('on = {push = {branches = ["!x"]}}', "Use `branches-ignore` without the `!`", False),
    ('on = {push = {branches = ["a"], branches-ignore = ["b"]}}', "does not go with `branches`", True),
    ('on = {push = {tags = ["a"], tags-ignore = ["b"]}}', "does not go with `tags`", True),
    ('on = {push = {paths = ["a"], paths-ignore = ["b"]}}', "does not go with `paths`", True),
    ('on = {push = {paths = ["[a"]}}', "is not a pattern: `[` is never closed", False),
    ('setup = ["echo ${{ matrix.lr }}"]', "Matrix values go into `command` and `env` only", False),
    ("matrix = 3", "is a number, not a table", True),
    ("matrix = {}", "leaves no cell", False),
    ("matrix = {lr = 0.1}", "is not an axis: a list of values", True),
    ("matrix = {lr = []}", "is an axis without values", True),
    ("matrix = {lr = [[1]]}", "holds a value that is a list", True),
    ("matrix = {lr = [1, 1.0]}", "holds a value twice", True),
    ('matrix = {lr = ["a\\u0000"]}', "holds a NUL character", False),
    ("matrix = {max-parallel = 2, lr = [1]}", "Did you mean `max_parallel`?", True),
    ("matrix = {max_parallel = 0, lr = [1]}", "is not a whole number from 1 to 256", True),
    ('matrix = {"a b" = [1]}', "is not a name", False),
    ("matrix = {lr = [1], LR = [2]}", "is too like `lr`", False),
    ("matrix = {lr = [1], include = 3}", "is not a list of tables", True),
    ("matrix = {lr = [1], include = [{}]}", "is empty", True),
    ("matrix = {lr = [1], include = [{seed = [1]}]}", "Write one value", True),
    ("matrix = {lr = [1], include = [{seed = {a = 1}}]}", "is a table, not text", True),
    ("matrix = {lr = [1], exclude = [{lrr = 1}]}", "Did you mean `lr`?", False),
    ("matrix = {lr = [1], exclude = [{lr = 1}]}", "leaves no cell", False),
    ("matrix = {lr = [1], include = [{lr = 2}, {lr = 2}]}", "has the same cell twice", False),
    (f"matrix = {{a = {list(range(20))}, b = {list(range(20))}}}", "has 400 cells", False),
    (f"matrix = {{a = {list(range(200))}, b = {list(range(200))}}}", "has far too many cells", False),
    ('command = "x ${{ matrix.lr }}"', "but the job has no matrix", False),
    ('command = "x ${{ matrix.lrr }}"\nmatrix = {lr = [1]}', "Did you mean `lr`?", False),
    ('command = "x ${{ matrix.z }}"\nmatrix = {lr = [1]}', "The matrix has `lr`", False),
    ('command = "x ${{ github.sha }}"', "$GITHUB_SHA", False),
    ('env = {A = "${{ matrix.z }}"}', "`job.train.env.A` holds", False),
]  # fmt: skip


@pytest.mark.parametrize(("text", "says", "seen"), MISTAKES, ids=[text[:40] for text, _, _ in MISTAKES])
def test_a_mistake_is_told_with_its_place_and_its_mend(text: str, says: str, seen: bool) -> None:
    error = refused(job(text))
    assert says in str(error)
    first = str(error).splitlines()[0]
    assert first.startswith("pushtrain.toml:")
    assert "job.train" in first
    assert first.rstrip().endswith((".", "?"))
    assert "hunter2" not in str(error)
    if seen:
        assert not _valid(job(text)), "the schema accepts it"


FILE_MISTAKES = [
    ("", "pushtrain.toml: no job is defined. Write one, for example `[job.train]`"),
    ("[job]", "no job is defined"),
    ("job = 3", "`job = 3` is a number, not a table"),
    ("[job]\ntrain = 3", "`job.train = 3` is a number, not a table"),
    ('[job."a b"]\ncommand = "x"', "is not a job's name"),
    ('[jobs.train]\ncommand = "x"', "`jobs` is not a known key. Did you mean `job`?"),
    ('[train]\ncommand = "x"', "A job's table is called `[job.train]`"),
    ('command = "x"', "Put it below a header such as `[job.train]`"),
    ("[job.train]", "pushtrain.toml:1: `job.train` has no `command`"),
    ("[job.train", "pushtrain.toml:1: this is not TOML"),
    ("x =\ny = 1", "pushtrain.toml:1:4: this is not TOML: invalid value"),
    ("a = 1\na = 2", "pushtrain.toml:2: this is not TOML: cannot overwrite a value"),
    (f"a = {'1' * 5000}", "pushtrain.toml: this is not TOML: exceeds the limit"),
    ("a = 1\n[job.train", "pushtrain.toml:2: this is not TOML"),
    (f"a = {'[' * 5000}", "is nested too deeply"),
    (b"a = 1\nb = '\xff'", "pushtrain.toml:2: the file is not UTF-8"),
    ("#" * (jobfile.MAX_BYTES + 1), "bytes; at most"),
    (job("", head="results = 3\n"), "`results = 3` is a number, not a table"),
    (job("", head='[results]\nbrunch = "x"\n'), "Did you mean `branch`?"),
    (job("", head='[results]\nbranch = "a..b"\n'), "is not a branch's name"),
    (job("", head='[results]\nbranch = "refs/heads/x"\n'), "is not a branch's name"),
    (job("", head='[results]\nbranch = "-x"\n'), "is not a branch's name"),
    (job("", head='[results]\nbranch = "x.lock"\n'), "is not a branch's name"),
    (job("", head=f'[results]\nbranch = "{"x" * 201}"\n'), "is not a branch's name"),
    ("".join(f'[job.j{at}]\ncommand = "x"\n' for at in range(101)), "holds 101 jobs; at most 100"),
    (job("", head='[results]\nbranch = "pushtrain/config"\n'), "where executors keep their addresses"),
    (job("", head='[results]\nrepository = "https://h/x"\n'), "is not a repository's key"),
    (job("", head='[results]\nbranch = "same"\nrepository = "h/x"\n'), "is the pushed branch"),
    (job("", head='[results]\npath = "../x"\n'), "leads out of the repository"),
    (job("", head='[results]\nartifacts = "file:///x"\n'), "is no place for large files"),
    (job("", head="[results]\nartifacts = 3\n"), "is no place for large files"),
]


@pytest.mark.parametrize(("text", "says"), FILE_MISTAKES, ids=[str(text[:30]) for text, _ in FILE_MISTAKES])
def test_a_mistake_in_the_file_itself_is_told(text: str | bytes, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert says in str(caught.value)


def test_all_mistakes_are_told_at_once_in_the_files_order() -> None:
    error = refused(
        'xyz = 1\n[job.a]\ncommand = "x"\ngpus = "two"\n\n[[job.a.data]]\nurl = "https://h/x"\npath = "/a"\n'
        "[job.b]\n'timout' = 1\ncommand = '''\ntimeout = 5\n'''\ntimeout = \"x\"\n"
    )
    lines = str(error).splitlines()
    assert [line.partition(" ")[0] for line in lines] == [
        "pushtrain.toml:1:",
        "pushtrain.toml:4:",
        "pushtrain.toml:8:",
        "pushtrain.toml:10:",
        "pushtrain.toml:14:",
    ]
    assert "`job.a.data.1.path" in lines[2]
    assert error.mend == ""
    assert error.exit_code == 3


def test_more_mistakes_than_anybody_reads_are_counted() -> None:
    lines = str(refused(job("".join(f"x{at} = 1\n" for at in range(50))))).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "pushtrain.toml: and 30 more."
    many = "".join(f"[job.j{at}]\ncommand = 1\n" for at in range(30))
    assert str(refused(job(f"command = 1\n{many}"))).endswith("pushtrain.toml: and 11 more.")
    fill_all = "".join(f'A{at} = "${{{{ matrix.x }}}}"\n' for at in range(30))
    assert str(refused(job(f"[job.train.env]\n{fill_all}"))).count("no matrix") == 20


def test_a_message_holds_nothing_that_a_terminal_obeys() -> None:
    said = str(refused(job('on = "\\u009b31m"\n"\\u009b" = 1')))
    assert "\\u009b31m" in said
    assert "\x9b" not in said


PAIRS = "\n".join(f"a{at} = [1, 2]" for at in range(10))
HOSTILE = {
    "openings": "command = '" + "${{" * 30_000 + "'",
    "keys": "\n".join(f"key{at} = 1" for at in range(15_000)),
    "references": "[job.train.env]\n" + "\n".join(f'A{at} = "${{{{ matrix.a }}}}"' for at in range(6_000)),
    "axes": "[job.train.matrix]\n" + "\n".join(f"a{at} = [1, 2]" for at in range(9_000)),
    "entries": f"[job.train.matrix]\n{PAIRS}\nexclude = [{'{a0 = 5, a1 = 5}, ' * 256}]"
    f"\ninclude = [{'{a0 = 5, a1 = 6}, ' * 256}]",
    "names": "[job.train.matrix]\na = [1]\nexclude = [{"
    + ", ".join(f"b{at} = 1" for at in range(9000))
    + "}]",
    "paths": "data = [" + ", ".join(f"{{mount = 'm', path = '{'a/' * 40}{at}'}}" for at in range(256)) + "]",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.timeout(20)
def test_a_hostile_file_takes_no_longer_than_a_large_one(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse(job(text))


def test_a_mistake_names_the_source_it_was_told() -> None:
    with pytest.raises(ConfigError, match=r"^pushtrain\.toml at 1234567:2: "):
        parse(job("command = 5"), source="pushtrain.toml at 1234567")


def test_a_long_value_is_cut_in_the_message() -> None:
    assert "xxx…`" in str(refused(job(f'on = "{"x" * 200}"')))


def test_a_key_that_needs_quotes_is_shown_with_them() -> None:
    assert '`job."a b"`' in str(refused('[job."a b"]\ncommand = "x"'))


def test_a_constraint_only_the_model_knows_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stricter(JobSpec):
        workdir: Annotated[str, Field(max_length=1)] = "."

    monkeypatch.setattr(jobfile, "JobSpec", Stricter)
    assert "`job.train.workdir` is not valid" in str(refused(job('workdir = "long"')))


# --- the matrix -------------------------------------------------------------------------------------------


def test_matrix_values_are_put_into_command_and_env() -> None:
    file = parse(
        job(
            'command = "train --lr ${{ matrix.lr }} ${{matrix.flag}} --aug=${{ matrix.aug }}"\n'
            'env = {SEED = "${{ matrix.seed }}", FIXED = "x"}\n'
            "[job.train.matrix]\nlr = [0.1, 1e-5]\naug = [true]\nseed = [1]\nmax_parallel = 2\n"
            'include = [{lr = 0.1, flag = "--fast"}]'
        )
    )
    specs = expand(file.jobs[0])
    assert [spec.command for spec in specs] == [
        "train --lr 0.1 --fast --aug=true",
        "train --lr 1e-05  --aug=true",
    ]
    assert [spec.env for spec in specs] == [{"SEED": "1", "FIXED": "x"}] * 2
    assert [spec.max_parallel for spec in specs] == [2, 2]
    assert specs[0].cell == {"lr": 0.1, "aug": True, "seed": 1, "flag": "--fast"}
    assert specs[0].title == "train (lr=0.1, aug=true, seed=1, flag=--fast)"


def test_matrix_values_are_put_into_an_argument_list() -> None:
    file = parse(job('command = ["train", "${{ matrix.a }}"]\n[job.train.matrix]\na = ["x y", "z"]'))
    assert [spec.command for spec in expand(file.jobs[0])] == [("train", "x y"), ("train", "z")]


# --- the schema -------------------------------------------------------------------------------------------


def _valid(text: str) -> bool:
    document: Any = json.loads(json.dumps(tomllib.loads(text), default=str))
    return bool(jsonschema.Draft7Validator(json_schema()).is_valid(document))


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(json_schema())


GOOD = [
    'command = "x"',
    'command = ["python", "train.py"]\ntimeout = "1h30m"\ngpus = 1\ngpu_memory = "8GiB"\nmemory = 2000000',
    'gpus = 1\ngpu_memory = "6GB"\ngpu_share = true\ngpu_capability = "8"\npriority = 5',
    'gpus = 2\nlauncher = "torchrun"',
    'environment = "uv"',
    'environment = {uv = ".", groups = ["a"], extras = ["b"], python = "3.12"}',
    'environment = {named = "torch-2.5"}',
    f'data = [{{url = "https://h/x.csv", sha256 = "{DIGEST}", path = "x"}}, {{mount = "m", path = "m"}}]',
    'data = [{url = "gs://b/x/", manifest = "SUMS", path = "d"}]',
    'min_isolation = "sandbox"',
    'on = "push"',
    'on = ["push", "manual"]',
    'on = {push = {branches = ["main", "!x"], paths-ignore = ["**.md"]}, manual = true}',
    "on = {push = true}",
    'env = {A = 1, B = true, C = "x"}\nlabels = ["a100"]\ncpus = 0.5\ntimeout = 90\nworkdir = "."',
    "[job.train.matrix]\nlr = [0.1, 0.01]\nmax_parallel = 2\ninclude = [{lr = 5}]\nexclude = [{lr = 0.1}]",
    '[results]\nbranch = "same"\npath = "out"\nartifacts = "lfs"',
]


@pytest.mark.parametrize("text", GOOD)
def test_what_parse_accepts_the_schema_accepts(text: str) -> None:
    parse(job(text))
    assert _valid(job(text))


# --- whatever comes ---------------------------------------------------------------------------------------

KEYS = st.sampled_from(
    [
        "command",
        "workdir",
        "setup",
        "data",
        "environment",
        "env",
        "gpus",
        "gpu_memory",
        "gpu_capability",
        "gpu_share",
        "launcher",
        "priority",
        "cpus",
        "min_isolation",
        "memory",
        "labels",
        "timeout",
        "results",
        "submodules",
        "lfs",
        "on",
        "matrix",
        "url",
        "path",
        "mount",
        "sha256",
        "manifest",
        "unpack",
        "push",
        "manual",
        "branches",
        "paths-ignore",
        "include",
        "exclude",
        "max_parallel",
        "uv",
        "conda",
        "named",
        "python",
        "groups",
        "x",
    ]
)
ATOMS = (
    st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["push", "main", "30m", "8GB", ".", "a/b", "https://h/x", "${{ matrix.x }}", "!", "[a"])
    | st.text(max_size=8)
)
VALUES = st.recursive(
    ATOMS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_any_document_is_a_job_or_a_config_error(fields: dict[str, Any]) -> None:
    document = {"job": {"train": {"command": "x", **fields}}}
    with patch.object(jobfile, "_loaded", return_value=document):
        try:
            specs = expand(parse("").jobs[0])
        except ConfigError as error:
            specs = ()
            told = error.message
        else:
            told = "pushtrain.toml"
    assert told.startswith("pushtrain.toml")
    assert all(JobSpec.model_validate_json(spec.model_dump_json()) == spec for spec in specs)


@given(st.text())
def test_any_text_is_a_file_or_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text)


PIECES = [
    b"[job.train]\n", b"command = ", b'"python train.py"', b"\n", b"[", b"]", b"{", b"}", b"=", b".", b",",
    b'"', b"'''", b'"""', b"\\u", b"\\ud800", b"1979-05-27T07:32:00Z", b"9" * 5000, b"1e999", b"-nan",
    b"0x" + b"f" * 3000, b"true", b"#", b"\x00", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"matrix",
    b"[job.train.matrix]\n", b"lr = [0.1]\n", b"env = {A='1'}\n", b"[results]\n", b"branch='x'\n",
    b"${{ matrix.lr }}", b"a." * 2000, b"[" * 3000, b"{a=" * 500, b"timeout='9d'\n",
    b"resources={gpus=1e3}\n",
    b"setup=['x']\n", b"\r\n", b" ", b"\t",
]  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.booleans(), st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=8)), max_size=24))
def test_any_bytes_are_a_file_or_a_config_error_that_can_be_shown(honest: bool, pieces: list[bytes]) -> None:
    raw = (b"[job.train]\ncommand = 'x'\n" if honest else b"") + b"".join(pieces)
    try:
        for job in parse(raw).jobs:
            expand(job)
    except ConfigError as error:
        told = error.message
    else:
        told = "pushtrain.toml"
    assert told.startswith("pushtrain.toml")
    told.encode()


@pytest.mark.parametrize(
    "bomb",
    [
        "a." * 100_000 + "a=1",
        '"a".' * 50_000 + "a=1",
        "'a' . " * 40_000 + "a=1",
        "x=" + "[" * 200_000,
        "x=" + "{a=" * 60_000,
        "x=" + "9" * 250_000,
        '[job.t]\ncommand="x"\ntimeout=0x' + "f" * 5000,
        "[job." + "x" * 200_000 + ']\ncommand="x"',
        '[job.t]\ncommand="x"\nresults=[' + ",".join(f"'a{n}'" for n in range(20_000)) + "]",
        '[job.t]\ncommand="x"\n[job.t.matrix]\n' + "\n".join(f"a{n}=[1,2]" for n in range(5000)),
    ],
    ids=range(10),
)
def test_a_bomb_in_a_small_file_is_a_config_error_at_once(bomb: str) -> None:
    """A key of 100,000 parts, 200 kB of text, took tomllib 40 GB of memory."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, hard[1]))
    begin = time.monotonic()
    try:
        with pytest.raises(ConfigError):
            parse(bomb)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, hard)
    assert time.monotonic() - begin < 10


# --- the reference ----------------------------------------------------------------------------------------

REFERENCE = (Path(__file__).parents[2] / "docs" / "pushtrain-toml.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```toml\n(.*?)^```\n(?:```text\n(.*?)^```\n)?", REFERENCE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("block", "says"), BLOCKS, ids=[str(block[:40]) for block, _ in BLOCKS])
def test_the_references_examples_are_true(block: str, says: str) -> None:
    text = block if "[job." in block else job(block)
    if says:
        assert str(refused(text)) == says.strip()
    else:
        parse(text)
        assert _valid(text)


def test_the_reference_has_a_section_with_an_example_for_every_key() -> None:
    schema = json_schema()["properties"]
    keys = next(iter(schema["job"]["patternProperties"].values()))["properties"]
    for key in keys:
        section = re.search(rf"^### {key}\n(.*?)(?=^##)", REFERENCE, re.DOTALL | re.MULTILINE)
        assert section, key
        assert "```toml" in section[1], key
    for key in (
        *schema["results"]["properties"],
        "unpack",
        "manifest",
        "mount",
        "branches-ignore",
        "tags-ignore",
    ):
        assert f"`{key}`" in REFERENCE, key


def test_a_job_names_its_secrets() -> None:
    job = parse('[job.train]\ncommand = "x"\nsecrets = ["WANDB_API_KEY", "HF_TOKEN"]').job("train")
    assert job.spec.secrets == ("WANDB_API_KEY", "HF_TOKEN")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('secrets = ["LD_PRELOAD"]', "changes how programs run"),
        ('secrets = ["PUSHTRAIN_RUN_ID"]', "pushtrain sets itself"),
        ('secrets = ["A_KEY", "A_KEY"]', "twice"),
        ('secrets = ["A_KEY"]\nenv = {A_KEY = "1"}', "stands in `env`, too"),
        (f"secrets = {[f'A{number}' for number in range(51)]}", "51 secrets; at most 50"),
        ('secret = ["A_KEY"]', "Did you mean `secrets`?"),
    ],
)
def test_a_name_that_is_no_secrets_is_told_with_its_mend(line: str, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(f'[job.train]\ncommand = "x"\n{line}')
    assert told in str(raised.value)


def test_a_token_in_the_place_of_its_name_is_not_repeated_in_the_message() -> None:
    with pytest.raises(ConfigError) as raised:
        parse('[job.train]\ncommand = "x"\nsecrets = ["hf_aTokenThatShouldNotBeInGit"]')
    assert "never a value" in str(raised.value)
    assert "hf_a" not in str(raised.value)


def test_a_job_says_how_it_is_stopped_and_started_again() -> None:
    spec = (
        parse(
            job(
                'command = "x"\npreempt_signal = "USR2"\n[job.train.retry]\nlost = 0\nfailed = 2\n'
                'exit_codes = {75 = 3}\nalso = ["data", "oom"]\nbackoff = "1m"'
            )
        )
        .jobs[0]
        .spec
    )
    assert spec.preempt_signal is PreemptSignal.USR2
    assert spec.retry == Retry(
        lost=0, failed=2, exit_codes={75: 3}, also=(Reason.DATA, Reason.OOM), backoff=60
    )
    assert parse(job('command = "x"')).jobs[0].spec.retry == Retry(lost=2)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('preempt_signal = "KILL"', "is no signal that a job can ask for"),
        ("retry = 3", "is a number, not a table"),
        ("retry = {failed = -1}", "is not a whole number from 0 to 100"),
        ("retry = {exit_codes = {85 = 1}}", "always starts the run again"),
        ("retry = {exit_codes = {0 = 1}}", "is no exit code of a failure"),
        ("retry = {exit_codes = {256 = 1}}", "is no exit code of a failure"),
        ('retry = {also = ["cancelled"]}', "is no reason that can be tried again"),
        ('retry = {backoff = "soon"}', "duration"),
        ("retry = {max = 3}", "Did you mean `failed`?"),
    ],
)
def test_what_a_job_may_not_say_about_starting_again(line: str, told: str) -> None:
    text = job(f'command = "x"\n{line}')
    assert told in str(refused(text))
    if "duration" not in told:
        assert not _valid(text)
