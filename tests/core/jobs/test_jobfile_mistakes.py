"""Mistakes in `pushtrain.toml`: each is told with its place and its mend, all at once, and at once."""

import contextlib
from typing import Annotated

import pytest
from jobfiles import job, refused, valid
from pydantic import Field

from pushtrain.core.errors import ConfigError
from pushtrain.core.jobs import jobfile
from pushtrain.core.jobs.jobfile import parse
from pushtrain.core.values.jobspec import (
    JobSpec,
)

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
        assert not valid(job(text)), "the schema accepts it"


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
        assert not valid(text)
