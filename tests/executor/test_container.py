"""Level `container`, with a program in the engine's place: it does what `docker run` does to its client.

The words are those of the engines' documentation; no engine runs here.
"""

import sys
from itertools import pairwise
from pathlib import Path

import pytest
from executor_house import House, done, logged, story

from pushtrain.adapters.sandboxes import Ground
from pushtrain.adapters.sandboxes.container import IMAGE, Container
from pushtrain.core.errors import ConfigError
from pushtrain.core.owner.rules import Limits, Rules
from pushtrain.core.values.isolation import Isolation, JobNetwork
from pushtrain.core.values.states import Outcome
from pushtrain.plumbing.isolation import jobuser
from pushtrain.ports import Cage
from pushtrain.testing import a_gpu, eventually

ENGINE = f"""#!{sys.executable} -I
import os, subprocess, sys
place = os.path.dirname(sys.argv[0])
with open(place + "/asked", "a") as log: log.write(repr(sys.argv[1:]) + "\\n")
with open(place + "/environ", "a") as log: log.write(repr(dict(os.environ)) + "\\n")
if sys.argv[1] == "run":
    words = sys.argv[2:]
    at = words.index("{IMAGE}")
    given = open(words[words.index("--env-file") + 1]).read()
    env = dict(line.split("=", 1) for line in given.splitlines())
    name = words[words.index("--name") + 1]
    cwd = words[words.index("--workdir") + 1]
    child = subprocess.Popen(words[at + 1:], env=env, cwd=cwd, start_new_session=True)
    open(place + "/" + name, "w").write(str(child.pid))
    sys.exit(child.wait() % 256)
if sys.argv[1] == "rm":
    try: os.killpg(int(open(place + "/" + sys.argv[-1]).read()), 9)
    except OSError: pass
if sys.argv[1] == "image":
    sys.exit(not os.path.exists(place + "/imported"))
if sys.argv[1] == "import":
    open(place + "/imported", "wb").write(sys.stdin.buffer.read())
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an engine in it."""
    folder = tmp_path / "engine"
    folder.mkdir()
    program = folder / "docker"
    program.write_text(ENGINE)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr("pushtrain.adapters.sandboxes.container.ENGINES", ("docker",))
    return folder


def words(tmp_path: Path, **cage: object) -> list[str]:
    made = {"network": JobNetwork.NONE, "limits": Limits(memory=1 << 30, processes=99), **cage}
    return list(Container(Ground(tmp_path / "isolation")).enclose(Cage(**made)).prefix)  # type: ignore[arg-type]


def test_the_empty_image_is_made_once(engine: Path, tmp_path: Path) -> None:
    container = Container(Ground(tmp_path))
    assert container.missing() == ("", "")
    assert (engine / "imported").read_bytes() == bytes(10240)
    assert container.missing() == ("", "")
    assert (engine / "asked").read_text().count("'import'") == 1


def test_a_machine_without_an_engine_does_not_offer_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Container(Ground(tmp_path)).missing()[0] == "neither Podman nor Docker is installed"


@pytest.mark.usefixtures("engine")
def test_the_engine_is_told_all_that_a_job_must_not_have(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    told = words(tmp_path, writable=(tmp_path / "work",), readable=(Path("/usr"),))
    pairs = list(pairwise(told))
    owner = (tmp_path / "work").stat().st_uid
    assert (owner >= jobuser.FIRST) == jobuser.wanted(), (
        "root's jobs are not root in the engine's eyes either"
    )
    user = f"{owner}:{(tmp_path / 'work').stat().st_gid}"
    for pair in (
        ("--network", "none"), ("--cap-drop", "ALL"), ("--security-opt", "no-new-privileges"),
        ("--memory", str(1 << 30)), ("--pids-limit", "99"), ("--user", user),
        ("--mount", f"type=bind,source={tmp_path}/work,target={tmp_path}/work"),
        ("--mount", "type=bind,source=/usr,target=/usr,readonly"),
    ):  # fmt: skip
        assert pair in pairs
    assert {"--rm", "--init", "--read-only", "--interactive"} <= set(told)
    assert not {"--privileged", "--pid", "--volume"} & set(told)


def test_gpus_are_given_by_their_uuids(engine: Path, tmp_path: Path) -> None:
    told = words(tmp_path, gpus=(a_gpu(uuid="GPU-a"), a_gpu(uuid="GPU-b")))
    assert told[told.index("--gpus") + 1] == '"device=GPU-a,GPU-b"'
    (engine / "docker").rename(engine / "podman")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pushtrain.adapters.sandboxes.container.ENGINES", ("podman",))
        told = words(tmp_path, gpus=(a_gpu(uuid="GPU-a"),))
    assert told[told.index("--device") + 1] == "nvidia.com/gpu=GPU-a"


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("network", [JobNetwork.INTERNET, JobNetwork.FETCH_ONLY])
def test_an_engines_network_is_not_taken_for_the_internet_alone(network: JobNetwork, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be held to the network"):
        words(tmp_path, network=network)


def pid_inside(engine: Path) -> int:
    (found,) = engine.glob("pushtrain-*")
    return int(found.read_text())


def housed(tmp_path: Path) -> House:
    house = House(tmp_path)
    rules = Rules(network=JobNetwork.FULL, min_isolation=Isolation.NONE)
    house.settings = house.settings.model_copy(update={"rules": rules})
    house.sandbox = Container(Ground(house.state.isolation))
    return house


@story
async def test_a_job_runs_and_its_variables_do_not_steer_the_engines_client(
    engine: Path, tmp_path: Path
) -> None:
    house = housed(tmp_path)
    async with house.running() as service:
        command = ("sh", "-c", "echo $GREETING from $PWD; exit 3")
        run = await done(
            service, house.send(service, command, env={"GREETING": "hello", "DOCKER_HOST": "evil"})
        )
        log = service.shown.log_chunk(run.id, 0, 0, 1000).data.decode()
        (attempt,) = service.store.attempts(run.id)
    assert (attempt.exit_code, attempt.isolation) == (3, Isolation.CONTAINER)
    assert log.startswith("hello from /")
    environ = (engine / "environ").read_text()
    assert "evil" not in environ
    assert "GREETING" not in environ


@story
async def test_a_container_that_outlives_its_client_is_ended(engine: Path, tmp_path: Path) -> None:
    house = housed(tmp_path)
    async with house.running() as service:
        run = house.send(service, ("sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"))
        await logged(service, run, "up")
        inside = pid_inside(engine)
        service.cancel(run.id, by="test")
        run = await done(service, run)
    assert run.outcome is Outcome.CANCELLED
    assert "'rm', '--force'" in (engine / "asked").read_text()
    await eventually(lambda: not Path(f"/proc/{inside}").exists() or None, 10)


@pytest.mark.usefixtures("engine")
@story
async def test_a_variable_that_an_engine_cannot_be_given_fails_the_run(tmp_path: Path) -> None:
    house = housed(tmp_path)
    async with house.running() as service:
        run = await done(service, house.send(service, ("true",), env={"TEXT": "one\ntwo"}))
        log = service.shown.log_chunk(run.id, 0, 0, 1000).data.decode()
    assert run.outcome is Outcome.FAILED
    assert "the variable TEXT has more than one line" in log
