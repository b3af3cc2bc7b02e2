"""What every test stands on: a home of its own, real repositories, and a look for processes left behind."""

import contextlib
import importlib
import os
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from owners_network import OwnersNetwork, open_folder, owners_network
from pushtrain.demo.host import Host, hosting
from pushtrain.plumbing.isolation.uplink import Uplinks
from pushtrain.testing import WorkRepository, wait_until

# A busy machine is slow, not wrong: examples have no deadline, each test has its timeout.
settings.register_profile("pushtrain", deadline=None)
settings.load_profile("pushtrain")

MARK = "PUSHTRAIN_TEST_SESSION"

# Ours, git's and the CI's variables decide what our code does: no test may depend on who runs it.
FOREIGN = (
    "PUSHTRAIN_",
    "GIT_",
    "GITHUB_",
    "NGROK_",
    "SSH_",
    "XDG_",
    "CUDA_",
    "UV_",
    "HF_",
    "TORCH_",
    "CONDA_",
)
KEPT = ("UV_CACHE_DIR", "UV_FIND_LINKS", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_PYTHON_INSTALL_DIR")


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the session a home, so that no test reads or writes the developer's files."""
    # A suite that runs in the background has SIGINT ignored, and so would everything that it starts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    home = tmp_path_factory.mktemp("home")
    before = Path(os.environ.get("HOME", "/"))
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(FOREIGN) and name not in KEPT:
                patch.delenv(name)
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        # How wide somebody's terminal is. Importing readline tells every child, behind `os.environ`'s back.
        with contextlib.suppress(ImportError):
            importlib.import_module("readline")
        for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
            patch.delenv(name, raising=False)
            os.unsetenv(name)
        patch.setenv("HOME", str(home))
        for name, folder in {"CONFIG": ".config", "STATE": ".local/state", "DATA": ".local/share"}.items():
            patch.setenv(f"XDG_{name}_HOME", str(home / folder))
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        patch.setenv("LANG", "C.UTF-8")
        # Tests have a deadline and share their machine: here an executor does not stand back for them.
        patch.setenv("PUSHTRAIN_RULES_OWNER_NICE", "0")
        # Executors that tests start run at the best level that the machine offers, whichever that is.
        patch.setenv("PUSHTRAIN_RULES_MIN_ISOLATION", "none")
        patch.setenv("PUSHTRAIN_RULES_NETWORK", "full")
        # Downloads are content, not settings: without the cache each session would fetch its wheels anew.
        patch.setenv("UV_CACHE_DIR", os.environ.get("UV_CACHE_DIR", str(before / ".cache" / "uv")))
        yield


@pytest.fixture(scope="session")
def no_uplinks(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Why no uplink can be made on this machine, in the product's own words; or nothing."""
    uplinks = Uplinks(tmp_path_factory.mktemp("probe"))
    why, mend = uplinks.missing()
    uplinks.close()
    return f"{why} {mend}".strip()


@pytest.fixture(scope="session")
def network(no_uplinks: str) -> Iterator[OwnersNetwork]:
    """A machine, its owner's network and a small internet, in namespaces of the session."""
    if no_uplinks:
        pytest.skip(no_uplinks)
    if os.geteuid() != 0:
        pytest.skip("the owner's network is made of namespaces, which takes root here")
    with open_folder() as folder, contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(owners_network(folder))
        except RuntimeError as error:
            pytest.skip(str(error))
        yield found


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_behind(tmp_path_factory: pytest.TempPathFactory, _own_home: None) -> Iterator[None]:
    """Fail the session when a process that a test started outlives it; end it by its own id."""
    mark = f"{MARK}={uuid.uuid4()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*mark.split("="))
        yield
    base = tmp_path_factory.getbasetemp().resolve()
    for link in Path(tempfile.gettempdir()).glob(
        "pushtrain-*"
    ):  # short names of attempts that end with the test
        if link.is_symlink() and link.readlink().is_relative_to(base):
            link.unlink(missing_ok=True)
    try:
        wait_until(lambda: not _ours(mark, base), timeout=5)
    except AssertionError:
        left = _ours(mark, base)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        pytest.fail("processes left behind: " + "; ".join(f"{pid} {line}" for pid, line in left.items()))


def _ours(mark: str, base: Path) -> dict[int, str]:
    """Processes that carry this session's mark or work in its folder (jobs inherit no variables)."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            if mark.encode() in environment or (entry / "cwd").readlink().is_relative_to(base):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if line:  # a zombie has none
                    found[int(entry.name)] = line
        except OSError:  # it ended while we looked, or is somebody else's
            continue
    return found


@pytest.fixture
def repository(tmp_path: Path) -> Callable[..., WorkRepository]:
    """Make real repositories: `repository("name", remote=..., token=...)`."""

    def make(name: str = "work", *, remote: str = "", token: str = "") -> WorkRepository:
        return WorkRepository(tmp_path / name, remote, token=token)

    return make


@pytest.fixture
def git_host(tmp_path: Path) -> Iterator[Host]:
    """A real smart-HTTP host: `remote = git_host.create("octo/hello")`, password `git_host.token`."""
    (tmp_path / "host-data").mkdir()
    with hosting(tmp_path / "host", data=tmp_path / "host-data") as host:
        yield host
