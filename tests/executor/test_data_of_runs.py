"""The data of real runs: what a job finds, what it cannot spoil for the next one, and what never starts."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from executor_house import House, done, story

from data_server import FileServer, cut, file_server, status
from pushtrain.core.owner.rules import Rules
from pushtrain.core.runs import retry
from pushtrain.core.values.jobspec import DataSource
from pushtrain.core.values.states import Outcome, Reason
from pushtrain.plumbing.data import download

CONTENT = b"a,b\n1,2\n"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def files() -> Iterator[FileServer]:
    with file_server() as found:
        yield found


@pytest.fixture
def house(tmp_path: Path, files: FileServer) -> House:
    found = House(tmp_path)
    rules = found.settings.rules.model_copy(update={"allow_data_hosts": (files.url.partition("://")[2],)})
    found.settings = found.settings.model_copy(update={"rules": Rules.model_validate(rules.model_dump())})
    return found


@story
async def test_job_that_spoils_its_data_spoils_it_for_nobody_else(house: House, files: FileServer) -> None:
    source = DataSource(url=files.serve("/a", CONTENT), sha256=DIGEST, path="data/a.csv")
    spoil = (
        'at=$(readlink -f data/a.csv); touch -r "$at" when; chmod u+w "$(dirname "$at")" "$at" && '
        'printf "a,b\\n6,6\\n" >"$at" && touch -r when "$at" && chmod a-w "$at" "$(dirname "$at")"; '
        "cat data/a.csv"
    )
    async with house.running() as service:
        first = await done(service, house.send(service, spoil, data=(source,)))
        assert b"6,6" in service.shown.log_chunk(first.id, 1, 0, 1000).data, "no level of isolation here"
        second = await done(service, house.send(service, "cat data/a.csv", data=(source,)))
        assert service.shown.log_chunk(second.id, 1, 0, 1000).data == CONTENT
    assert len(files.asked) == 2, "it was fetched anew"


@story
async def test_data_cannot_be_written_by_mistake(house: House, files: FileServer) -> None:
    source = DataSource(url=files.serve("/a", CONTENT), sha256=DIGEST, path="data/a.csv")
    look = 'stat -Lc %A data/a.csv "$(dirname "$(readlink -f data/a.csv)")"'
    async with house.running() as service:
        run = await done(service, house.send(service, look, data=(source,)))
        modes = service.shown.log_chunk(run.id, 1, 0, 1000).data.decode().split()
    assert len(modes) == 2
    assert not any("w" in mode for mode in modes)


@story
async def test_a_run_whose_data_server_is_down_waits_and_trains_when_it_is_back(
    house: House, files: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repository's host answers all the while: that nobody is reached is not the only bad day."""
    monkeypatch.setattr(retry, "FIRST_UNREADY", 0.05)
    monkeypatch.setattr(download, "_TRIES", 1)
    source = DataSource(url=files.serve("/a", CONTENT, status(503)), sha256=DIGEST, path="data/a.csv")
    async with house.running() as service:
        run = await done(service, house.send(service, "cat data/a.csv", data=(source,)))
        first, second = service.store.attempts(run.id)
        assert (first.reason, second.exit_code) == (Reason.UNREACHABLE, 0)
        assert "the server answered 503" in first.detail


@pytest.mark.parametrize("kind", ["wrong", "cut", "forbidden"])
@story
async def test_command_never_starts_on_data_that_is_not_what_was_pinned(
    house: House, files: FileServer, kind: str
) -> None:
    urls = {
        "wrong": files.serve("/wrong", b"other"),
        "cut": files.serve("/cut", CONTENT, *[cut(3)] * 9, length=False),
        "forbidden": "http://169.254.169.254/latest/meta-data/",
    }
    source = DataSource(url=urls[kind], sha256=DIGEST, path="data/a.csv")
    async with house.running() as service:
        run = await done(service, house.send(service, "touch started; echo started", data=(source,)))
        assert (run.outcome, run.reason) == (Outcome.FAILED, Reason.DATA)
        assert b"started" not in service.shown.log_chunk(run.id, 1, 0, 1000).data
    assert not list(house.state.data.glob("*/file")), "nothing of it counts as cached"
