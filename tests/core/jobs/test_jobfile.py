"""`pushtrain.toml`: what it may say, what each key becomes, and what a person is told of a mistake."""

import re
import resource
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobfiles import job, refused, valid

from pushtrain.core.errors import ConfigError, NotFound
from pushtrain.core.jobs import jobfile
from pushtrain.core.jobs.jobfile import JobFile, expand, parse
from pushtrain.core.jobs.schema import json_schema
from pushtrain.core.jobs.triggers import PushTrigger, Triggers
from pushtrain.core.values.jobspec import (
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
from pushtrain.core.values.states import Reason

DIGEST = "0123456789abcdef" * 4


def only(text: str) -> JobSpec:
    return parse(job(text)).jobs[0].spec


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
    assert valid(job(text))


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


REFERENCE = (Path(__file__).parents[3] / "docs" / "pushtrain-toml.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```toml\n(.*?)^```\n(?:```text\n(.*?)^```\n)?", REFERENCE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("block", "says"), BLOCKS, ids=[str(block[:40]) for block, _ in BLOCKS])
def test_the_references_examples_are_true(block: str, says: str) -> None:
    text = block if "[job." in block else job(block)
    if says:
        assert str(refused(text)) == says.strip()
    else:
        parse(text)
        assert valid(text)


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
