"""Builds of environments inside the sandbox: what code of others can do there, and what costs nothing.

The packages are made by hand and lie in a folder; their build backends try what they must not be able to do,
and what they found out is what they install.
"""

import io
import json
import os
import socket
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from executor_house import House, done, story

from data_server import Handler, Served, file_server
from pushtrain.adapters.environments import tool
from pushtrain.adapters.environments.requirements import RequirementsFile
from pushtrain.adapters.environments.site import Site
from pushtrain.adapters.environments.tool import without_credentials
from pushtrain.adapters.environments.uv import UvProject
from pushtrain.adapters.sandboxes import Ground
from pushtrain.adapters.sandboxes.sandbox import Bubblewrap
from pushtrain.core.errors import BuildError, NeedsCode
from pushtrain.core.owner.rules import Limits
from pushtrain.core.values.isolation import JobNetwork
from pushtrain.core.values.jobspec import EnvironmentKind, EnvironmentSpec
from pushtrain.executor.runs.bytecode import MARK, Compiler
from pushtrain.executor.runs.cages import compiling_cage
from pushtrain.executor.runs.preflight import ask_torch
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.isolation.building import CagedBuilder
from pushtrain.ports import Cage, Enclosure
from pushtrain.testing import wait_until
from wheel_index import serve_index, wheel

REQUIREMENTS = EnvironmentSpec(kind=EnvironmentKind.REQUIREMENTS)

BACKEND = """
import json, os, socket, zipfile
def get_requires_for_build_wheel(config_settings=None): return []
def read(path):
    try:
        with open(path, "rb") as file: return bool(file.read(1))
    except OSError: return False
def write(path):
    try:
        with open(path, "wb") as file: file.write(b"poison")
        return True
    except OSError: return False
def connect(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError: return False
def build_wheel(directory, config_settings=None, metadata_directory=None):
    wanted = json.load(open("wanted.json"))
    found = {
        "read": [path for path in wanted["read"] if read(path)],
        "written": [path for path in wanted["write"] if write(path)],
        "connected": [port for port in wanted["ports"] if connect(port)],
        "variables": dict(os.environ),
        "processes": [one for one in os.listdir("/proc") if one.isdigit() and read(f"/proc/{one}/environ")],
    }
    info = "evil-1.0.dist-info"
    with zipfile.ZipFile(directory + "/evil-1.0-py3-none-any.whl", "w") as out:
        out.writestr("evil.json", json.dumps(found))
        out.writestr("evil.py", "")
        out.writestr(info + "/METADATA", "Metadata-Version: 2.1\\nName: evil\\nVersion: 1.0\\n")
        out.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        out.writestr(info + "/RECORD", "")
    return "evil-1.0-py3-none-any.whl"
"""


def source_package(folder: Path, wanted: Mapping[str, Any]) -> None:
    """A package without a wheel, whose build tries all that is wanted of it."""
    files = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": BACKEND,
        "wanted.json": json.dumps({"read": [], "write": [], "ports": [], **wanted}),
    }
    with tarfile.open(folder / "evil-1.0.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"evil-1.0/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))


def packed(yard: "Yard", name: str, files: Mapping[str, str]) -> None:
    """A wheel that brings files of its own choice."""
    file, content = wheel(name, "1.0")
    (yard.packages / file).write_bytes(content)
    with zipfile.ZipFile(yard.packages / file, "a") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


class Yard:
    """A machine's folders, and builders that work there in bubblewrap."""

    def __init__(self, tmp_path: Path) -> None:
        self.home = tmp_path / "owner"
        self.packages = tmp_path / "packages"
        self.tree = tmp_path / "tree"
        for folder in (self.home, self.packages, self.tree):
            folder.mkdir()
        self.state = StateFolder(self.home / "state").create()
        self.sandbox = Bubblewrap(Ground(self.state.isolation))
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "UV_FIND_LINKS": str(self.packages),
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_INDEX_LAB_USERNAME": "lab",
            "UV_INDEX_LAB_PASSWORD": "hunter2",
            "UV_EXTRA_INDEX_URL": "https://lab:hunter2@index.example.org/simple",
            "NETRC": str(self.home / "netrc"),
        }
        (self.home / "netrc").write_text("machine index.example.org login lab password hunter2\n")
        self.site = Site(self.state.tools, self.state.environments, environ=self.environ)
        self.network = JobNetwork.NONE
        self.hosts: tuple[str, ...] = ()

    def builder(self, *, code: bool, repository: str = "octo+hello") -> CagedBuilder:
        return CagedBuilder(
            self.sandbox,
            shared=self.state.environments,
            tools=self.state.tools,
            own=self.state.builds / repository,
            network=self.network,
            uplink=lambda: None,
            limits=Limits(),
            report=lambda *_: None,
            stop=lambda: None,
            code=code,
            hosts=self.hosts,
            environ=self.environ,
        )

    def build(self, requirements: str, name: str, *, code: bool) -> Path:
        """Install requirements; the environment."""
        (self.tree / "requirements.txt").write_text(requirements)
        into = self.state.environments / name
        into.mkdir()
        RequirementsFile(self.site).build(self.tree, REQUIREMENTS, into, self.builder(code=code))
        return into

    def found(self, into: Path) -> dict[str, Any]:
        """What the build of `evil` found out."""
        found: dict[str, Any] = json.loads(next(into.glob("lib/python*/site-packages/evil.json")).read_text())
        return found


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    yard = Yard(tmp_path)
    if yard.sandbox.missing()[0]:
        pytest.skip(f"level `sandbox` cannot be tried here: {yard.sandbox.missing()[0]}")
    return yard


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def secrets_of(yard: Yard) -> list[str]:
    """Files that no build may read; each is there."""
    other = yard.state.builds / "octo+other" / "uv"
    other.mkdir(parents=True)
    paths = [
        yard.home / "netrc",
        yard.home / "diary.txt",
        yard.state.key,
        yard.state.store,
        yard.state.settings,
        other / "cached",
        yard.state.caches / "octo+other" / "token",
    ]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        path.write_text("secret")
    return [str(path) for path in paths]


@pytest.mark.slow
def test_a_build_backend_reads_nothing_of_the_owners_and_reaches_nothing(yard: Yard, listening: int) -> None:
    private = secrets_of(yard)
    source_package(yard.packages, {"read": private, "ports": [listening]})
    found = yard.found(yard.build("evil", "one", code=True))
    assert (found["read"], found["connected"]) == ([], [])
    assert len(found["processes"]) < 10, "its own alone"
    assert "hunter2" not in json.dumps(found["variables"])
    assert str(yard.home / "netrc") not in found["variables"].values()
    assert all(Path(path).read_text() == "secret" for path in private)


@pytest.mark.slow
def test_a_build_backend_writes_to_no_cache_but_its_repositorys_own(yard: Yard) -> None:
    (yard.packages / wheel("alpha", "1.0")[0]).write_bytes(wheel("alpha", "1.0")[1])
    shared = yard.build("alpha", "shared", code=False)
    module = next(shared.glob("lib/python*/site-packages/alpha.py"))
    cached = list(yard.state.tools.rglob("alpha.py"))
    assert cached
    other = yard.state.builds / "octo+other"
    other.mkdir(parents=True)
    targets: list[Path] = [
        *cached,
        module,
        other / "new",
        yard.state.tools / "new",
        yard.state.environments / "new",
    ]
    own = yard.state.builds / "octo+hello" / "mark"
    source_package(yard.packages, {"write": [*map(str, targets), str(own)]})
    found = yard.found(yard.build("evil", "mine", code=True))
    assert str(own) in found["written"]
    assert own.read_text() == "poison"
    assert not any(path.exists() for path in targets[len(cached) + 1 :]), (
        "what it wrote there is gone with it"
    )
    assert not any("poison" in path.read_text() for path in (*cached, module))


@pytest.mark.slow
def test_wheels_are_shared_without_running_any_code(yard: Yard) -> None:
    """... and are hard links to the cache that all repositories share, from inside the cage, too."""
    (yard.packages / wheel("alpha", "1.0")[0]).write_bytes(wheel("alpha", "1.0")[1])
    for name in ("one", "two"):
        into = yard.build("alpha", name, code=False)
        module = next(into.glob("lib/python*/site-packages/alpha.py"))
        assert module.stat().st_nlink >= 2
    cached = {path.stat().st_ino for path in yard.state.tools.rglob("alpha.py")}
    assert module.stat().st_ino in cached


@pytest.mark.slow
@pytest.mark.parametrize("alone", [False, True], ids=["kept from building", "by the flag"])
def test_what_must_be_built_is_refused_by_whoever_may_not_run_code(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    if alone:
        monkeypatch.setattr(tool, "_keep_from_building", lambda _: None)
    source_package(yard.packages, {"write": [str(yard.home / "was-here")]})
    (yard.packages / wheel("alpha", "1.0")[0]).write_bytes(wheel("alpha", "1.0")[1])
    (yard.tree / "evil-1.0.tar.gz").write_bytes((yard.packages / "evil-1.0.tar.gz").read_bytes())
    ways = ("evil", "evil==1.0", "./evil-1.0.tar.gz", "--no-binary evil\nevil", "--no-binary :all:\nevil")
    for number, line in enumerate(ways):
        with pytest.raises(NeedsCode):
            yard.build(line, f"no-{number}", code=False)
    assert not (yard.home / "was-here").exists()
    assert not list(yard.state.tools.rglob("evil.json"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting", ["no-binary-package = ['evil']", "no-binary = true", '"no\\u002dbinary-package" = ["evil"]']
)
@pytest.mark.parametrize("scanned", [True, False], ids=["scanned", "kept from building"])
def test_a_projects_settings_do_not_overrule_that_nothing_is_built(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, setting: str, scanned: bool
) -> None:
    """Each of two defences holds alone; uv itself does as the project says."""
    source_package(yard.packages, {"write": [str(yard.state.tools / "was-here")]})
    isolation = "no-build-isolation = true" if "package" in setting else ""
    (yard.tree / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["evil"]\n'
        f"[tool.uv]\n{setting}\n{isolation}\n"
    )
    if scanned:
        monkeypatch.setattr(tool, "_keep_from_building", lambda _: None)
    else:
        monkeypatch.setattr(tool, "demands_code", lambda _: False)
    into = yard.state.environments / "project"
    into.mkdir()
    with pytest.raises(NeedsCode):
        UvProject(yard.site).build(yard.tree, EnvironmentSpec(), into, yard.builder(code=False))
    assert not (yard.state.tools / "was-here").exists()


@pytest.mark.slow
def test_requirements_do_not_fetch_with_the_owners_git_or_from_their_folders(yard: Yard) -> None:
    private = yard.home / "private"
    private.mkdir()
    (private / wheel("gamma", "9")[0]).write_bytes(wheel("gamma", "9")[1])
    for number, line in enumerate(
        (
            f"gamma @ git+file://{private}",
            "gamma @ git+ssh://git@127.0.0.1/private.git",
            f"gamma @ file://{private / wheel('gamma', '9')[0]}",
        )
    ):
        with pytest.raises(BuildError):
            yard.build(line, f"no-{number}", code=False)
        with pytest.raises(BuildError):
            yard.build(line, f"nor-{number}", code=True)


@pytest.mark.parametrize("symlinks", [True, False], ids=["a linked Python", "a Python of its own"])
def test_code_of_packages_does_not_run_when_bytecode_is_compiled(tmp_path: Path, symlinks: bool) -> None:
    """A `.pth` file would run as the executor, and could write into files that other environments share."""
    root = tmp_path / "environment"
    venv.create(root, symlinks=symlinks, with_pip=False)
    packages = next(root.glob("lib/python*/site-packages"))
    (packages / "evil.pth").write_text(f"import pathlib; pathlib.Path({str(tmp_path)!r}, 'ran').touch()\n")
    (packages / "sitecustomize.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (packages / "alpha.py").write_text("x = 1\n")
    compiler = Compiler()
    compiler.want(root, root / "bin" / "python", Enclosure())
    wait_until((root / MARK).exists)
    compiler.close()
    assert list(packages.glob("__pycache__/alpha*.pyc"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_compiling_interpreter_sees_its_environment_alone(yard: Yard) -> None:
    """Also where the interpreter itself is a package's, as conda's is."""
    root = yard.state.environments / "conda"
    (root / "bin").mkdir(parents=True)
    python = root / "bin" / "python"
    python.write_text(f"#!/bin/sh\ncat {yard.home}/diary.txt > {root}/stolen; touch {root}/{MARK}\n")
    python.chmod(0o755)
    (yard.home / "diary.txt").write_text("secret")
    compiler = Compiler()
    compiler.want(root, python, yard.sandbox.enclose(Cage(writable=(root,))))
    wait_until((root / MARK).exists)
    compiler.close()
    assert (root / "stolen").read_text() == ""


@pytest.mark.slow
def test_torch_is_asked_inside(yard: Yard) -> None:
    package = yard.tree / "torch"
    package.mkdir()
    (yard.home / "diary.txt").write_text("secret")
    (package / "__init__.py").write_text(
        f"stolen = open({str(yard.home / 'diary.txt')!r}).read()\nraise SystemExit('reached ' + stolen)\n"
    )
    enclosure = yard.sandbox.enclose(
        Cage(writable=(yard.tree,), readable=(Path(sys.base_prefix),), network=JobNetwork.NONE)
    )
    env = {"PATH": f"{sys.base_prefix}/bin:/usr/bin:/bin", "PYTHONPATH": str(yard.tree)}
    said: list[str] = []
    import logging

    class Listen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger = logging.getLogger("pushtrain.executor.runs.preflight")
    handler = Listen()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        assert ask_torch(env, yard.tree, enclosure=enclosure, gpus=1, driver="") is None
    finally:
        logger.removeHandler(handler)
    assert "FileNotFoundError" in said[0]
    assert "reached" not in said[0]


@story
async def test_setup_runs_inside(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.sandbox = Bubblewrap(Ground(house.state.isolation))
    if house.sandbox.missing()[0]:
        pytest.skip(house.sandbox.missing()[0])
    house.state.create()
    house.state.settings.write_text("# secret")
    steal = f"cat {house.state.settings} || echo not there; ls {house.state.root} || echo nor that"
    async with house.running() as service:
        run = await done(service, house.send(service, "true", setup=(steal,)))
        log = house.result(run, "log.txt")
    assert "not there" in log
    assert "secret" not in log


def test_the_owners_credentials_are_not_for_code_of_others() -> None:
    given = {
        "UV_INDEX_LAB_USERNAME": "lab",
        "UV_INDEX_LAB_PASSWORD": "hunter2",
        "UV_DEFAULT_INDEX": "https://lab:hunter2@index.example.org/simple",
        "UV_INDEX": "https://a:hunter2@one.example.org/x https://two.example.org/y",
        "NETRC": "/home/owner/.netrc",
        "HTTPS_PROXY": "http://user:hunter2@proxy.example.org:3128",
        "UV_OFFLINE": "1",
    }
    left = without_credentials(given)
    assert "hunter2" not in json.dumps(left)
    assert left == {
        "UV_DEFAULT_INDEX": "https://index.example.org/simple",
        "UV_INDEX": "https://one.example.org/x https://two.example.org/y",
        "HTTPS_PROXY": "http://proxy.example.org:3128",
        "UV_OFFLINE": "1",
    }


@pytest.mark.parametrize(
    ("network", "code", "index", "reached"),
    [
        (JobNetwork.INTERNET, False, "", JobNetwork.INTERNET),
        (JobNetwork.INTERNET, False, "https://8.8.8.8/simple", JobNetwork.INTERNET),
        (JobNetwork.INTERNET, False, "http://127.0.0.1:8080/simple", JobNetwork.FULL),
        (JobNetwork.INTERNET, True, "http://127.0.0.1:8080/simple", JobNetwork.INTERNET),
        (JobNetwork.FETCH_ONLY, False, "", JobNetwork.INTERNET),
        (JobNetwork.FETCH_ONLY, True, "", JobNetwork.INTERNET),
        (JobNetwork.NONE, False, "http://127.0.0.1:8080/simple", JobNetwork.NONE),
        (JobNetwork.FULL, True, "", JobNetwork.FULL),
    ],
)
def test_only_a_tool_that_runs_nobodys_code_reaches_an_index_in_the_owners_network(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    network: JobNetwork,
    code: bool,
    index: str,
    reached: JobNetwork,
) -> None:
    def looked_up(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        """The internet's names, as a machine without a mirror of them sees it."""
        address = {"pypi.org": "151.101.0.223", "files.pythonhosted.org": "151.101.0.223"}.get(host, host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    builder = CagedBuilder(
        Bubblewrap(Ground(tmp_path)),
        shared=tmp_path,
        tools=tmp_path / "tools",
        own=tmp_path / "own",
        network=network,
        uplink=lambda: None,
        limits=Limits(),
        report=lambda *_: None,
        stop=lambda: None,
        code=code,
        environ={"UV_DEFAULT_INDEX": index},
    )
    assert builder._reached() is reached
    assert builder.offline is (network is JobNetwork.NONE)


@pytest.mark.slow
def test_an_index_in_the_owners_network_opens_no_other_place_of_it(yard: Yard) -> None:
    """What a requirement, a page of the index or a redirect names is judged; real uv asks by the proxy."""
    with file_server() as index, file_server() as victim:
        yard.environ = {"PATH": os.environ["PATH"], "HOME": str(yard.home), "UV_PYTHON_DOWNLOADS": "never"}
        yard.environ |= {
            "UV_DEFAULT_INDEX": serve_index(index, [wheel("alpha", "1.0")]),
            "NO_PROXY": "127.0.0.1",
        }
        yard.site = Site(yard.state.tools, yard.state.environments, environ=yard.environ)
        yard.network = JobNetwork.INTERNET
        file, content = wheel("beta", "1.0")
        inside = victim.serve(f"/{file}", content)
        page = f'<!DOCTYPE html><html><body><a href="{inside}">{file}</a></body></html>'
        index.serve("/simple/beta/", page.encode(), kind="text/html")

        def led_away(handler: Handler, _: Served) -> bool:
            handler.send_response(302)
            handler.send_header("Location", inside.replace(file, wheel("gamma", "1.0")[0]))
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return True

        index.serve("/simple/gamma/", b"", *[led_away] * 9)
        ways = ("beta", f"beta @ {inside}", f"beta @ git+{victim.url}/beta.git", "gamma")
        for number, way in enumerate((*ways, f"--extra-index-url {victim.url}/simple\ndelta")):
            with pytest.raises((BuildError, NeedsCode)) as error:
                yard.build(way, f"no-{number}", code=False)
            if "git+" not in way:
                assert "allow_data_hosts" in error.value.message, "it says why, and the mend"
        assert victim.asked == []
        into = yard.build("alpha", "yes", code=False)
        assert list(into.glob("lib/python*/site-packages/alpha.py"))
        yard.hosts = (victim.url.removeprefix("http://"),)
        into = yard.build("beta", "listed", code=False)
        assert list(into.glob("lib/python*/site-packages/beta.py"))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["tool.uv", "tool.uv.pip"])
def test_a_projects_settings_have_nobodys_code_run_over_the_shared_files(yard: Yard, where: str) -> None:
    """uv would start the environment's Python to compile it, and with it what a package has it do."""
    (yard.packages / wheel("alpha", "1.0")[0]).write_bytes(wheel("alpha", "1.0")[1])
    ran = yard.state.environments / "was-here"
    packed(yard, "evil", {"evil.pth": f"import pathlib; pathlib.Path({str(ran)!r}).touch()\n"})
    (yard.tree / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "1"\ndependencies = ["evil"]\n'
        f"[{where}]\ncompile-bytecode = true\n"
    )
    into = yard.state.environments / "project"
    into.mkdir()
    with pytest.raises(NeedsCode):
        UvProject(yard.site).build(yard.tree, EnvironmentSpec(), into, yard.builder(code=False))
    assert not ran.exists()


def test_settings_that_bring_a_python_along_are_for_whoever_may_run_code() -> None:
    setting = b'python-downloads-json-url = "https://evil.example.org/pythons.json"\n'
    script = b"# /// script\n# dependencies = []\n# [tool.uv]\n# " + setting + b"# ///\n"
    for name, text in (
        ("pyproject.toml", b"[tool.uv]\n" + setting),
        ("uv.toml", setting),
        ("script.py", script),
        ("pyproject.toml", b'[tool.uv.pip]\nprefix = "/elsewhere"\n'),
    ):
        assert tool.demands_code({name: text}), name
    usual = (
        b'[tool.uv]\ndev-dependencies = []\n[[tool.uv.index]]\nname = "x"\nurl = "https://x.example.org"\n'
    )
    assert not tool.demands_code({"pyproject.toml": usual})


@pytest.mark.parametrize("file", ["pyproject.toml", "uv.toml"])
def test_the_owners_keys_of_an_index_do_not_go_to_one_that_a_repository_calls_so(
    yard: Yard, file: str
) -> None:
    table = "index" if file == "uv.toml" else "tool.uv.index"
    files = {file: f'[[{table}]]\nname = "lab"\nurl = "https://evil.example.org/simple"\n'.encode()}
    uv = tool.Uv(yard.site)
    with pytest.raises(NeedsCode, match="index"):
        uv.check(files, yard.builder(code=False))
    uv.check(files, yard.builder(code=True))  # which has no keys
    yard.environ["UV_INDEX"] = "lab=https://evil.example.org/simple"
    uv.check(files, yard.builder(code=False))


@pytest.mark.slow
def test_no_package_decides_from_where_the_compiling_interpreter_starts(yard: Yard) -> None:
    """`pyvenv.cfg` says where the standard library is, and a wheel may bring one; its files are shared."""
    (yard.packages / wheel("alpha", "1.0")[0]).write_bytes(wheel("alpha", "1.0")[1])
    root = yard.state.environments / "mine"
    library = f"share/fake/lib/python{sys.version_info[0]}.{sys.version_info[1]}"
    data = {
        "pyvenv.cfg": f"home = {root}/share/fake/bin\n",
        f"{library}/os.py": "",
        f"{library}/encodings/__init__.py": f"import posix; posix.mkdir({str(root / 'was-here')!r})\n",
    }
    packed(yard, "evil", {f"evil-1.0.data/data/{name}": text for name, text in data.items()})
    yard.build("evil", "mine", code=False)
    python = root / "bin" / "python"
    cage = compiling_cage(root, python, yard.state, network=JobNetwork.NONE)
    compiler = Compiler()
    compiler.want(root, python, yard.sandbox.enclose(cage))
    wait_until((root / MARK).exists)
    compiler.close()
    assert not (root / "was-here").exists()
