"""The signature of a data URL on the whole real line: used to fetch, and kept in the command alone."""

import base64
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomlkit
from house import SYSTEM, House

from data_server import FileServer, file_server, status
from pushtrain.core.values.states import State
from pushtrain.demo.host import hosting

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SECRET = "c2lnbmF0dXJlLW9mLWEtcHJlc2lnbmVkLXVybA"
QUERY = f"?X-Amz-Credential=AKIAEXAMPLE&X-Amz-Signature={SECRET}"
PACKED = base64.b64encode(QUERY[1:].encode()).decode()
JOBS = f"""
[job.train]
command = "sha256sum data/train.csv; echo the address is $(echo {PACKED} | base64 -d)"
{SYSTEM}data = [{{url = "http://127.0.0.1:1/none", path = "data/train.csv"}}]
"""


@pytest.fixture
def files() -> Iterator[FileServer]:
    with file_server() as found:
        yield found


@pytest.fixture
def house(tmp_path: Path, files: FileServer) -> Iterator[House]:
    with hosting(tmp_path / "host") as host:
        found = House(tmp_path, host)
        rules = {"allow_data_hosts": [files.url.partition("://")[2]]}
        found.executor_state.settings.write_text(tomlkit.dumps({"rules": rules}))
        try:
            yield found
        finally:
            found.end()


def committed(house: House) -> bytes:
    """Every object of every branch of the repository."""
    store = house.host.root / f"{house.names[0]}.git"
    git = ["git", "--git-dir", str(store)]
    listed = subprocess.run([*git, "rev-list", "--objects", "--all"], check=True, capture_output=True).stdout
    names = b"\n".join(line.split()[0] for line in listed.splitlines())
    found = subprocess.run([*git, "cat-file", "--batch"], input=names, check=True, capture_output=True).stdout
    assert b"run.json" in listed
    return listed + found


def test_signature_of_a_data_url_is_in_no_result_log_answer_or_record(
    house: House, files: FileServer
) -> None:
    good = files.serve("/train.csv", b"a,b\n1,2\n") + QUERY
    gone = files.serve("/gone.csv", b"", *[status(410)] * 9) + QUERY
    work = house.work(JOBS)
    work.commit({})
    work.push()
    house.start_executor()
    house.start_sender(webhook=False)
    said: list[str] = []

    def say(*words: str, code: int | None = 0) -> str:
        done = house.cli(*words, cwd=work.folder)
        said.append(done.stdout + done.stderr)
        assert code is None or done.returncode == code, done.stderr
        return done.stdout

    outcomes: list[str] = []
    for url in (good, gone):
        say("send", "--data-url", url, "--json")
        (run,) = [one for one in house.client().runs(limit=50) if one.id not in outcomes]
        house.until(run.id, State.DONE, timeout=90)
        outcomes.append(run.id)
    assert [one.path for one in files.asked] == [f"/train.csv{QUERY}", f"/gone.csv{QUERY}"]
    views = [house.client().view(run) for run in outcomes]
    assert [view.run.outcome for view in views] == ["succeeded", "failed"]
    assert "answered 410" in views[1].run.detail
    assert views[0].run.command.job.data[0].url.endswith("/train.csv?*")
    asked: list[tuple[str, ...]] = [
        ("ps",),
        ("ps", "--json"),
        ("results", "list", "--json"),
        ("executor", "status", "--json"),
    ]
    for one in outcomes:
        asked += [("show", one), ("show", one, "--json"), ("logs", one), ("results", "show", one)]
    for words in asked:
        say(*words, code=None)
    refused = house.cli("rerun", outcomes[0], cwd=work.folder)
    said.append(refused.stdout + refused.stderr)
    assert "Sign it anew: `pushtrain send" in refused.stderr
    house.end()
    offline: list[tuple[str, ...]] = [
        ("show", outcomes[0], "--json"),
        ("ps", "--json"),
        ("logs", outcomes[1]),
    ]
    for words in offline:
        done = house.cli(*words, state=house.executor_state, cwd=work.folder)
        said.append(done.stdout + done.stderr)
    secret = SECRET.encode()
    assert "the address is" in "".join(said), "the job itself printed it"
    assert SECRET not in "".join(said)
    assert SECRET not in house.log("executor") + house.log("sender")
    assert secret not in committed(house)
    holding = {
        path.relative_to(house.folder)
        for root in (house.executor_state.root, house.sender_state.root)
        for path in root.rglob("*")
        if path.is_file() and secret in path.read_bytes()
    }
    stores = {path for path in holding if path.name.startswith("store.db") or "outbox" in path.parts}
    assert holding == stores, "only the signed command itself holds it"
    assert all((house.folder / path).stat().st_mode & 0o077 == 0 for path in holding)
