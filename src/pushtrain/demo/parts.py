"""The parts of the demo: a Git host, an executor, a sender, each a process; and the clone of who pushes.

They are started as a user would start them (`pushtrain executor`, `pushtrain sender`) with state folders of
their own, introduced to each other by their keys, and everything lies below one folder.
"""

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final

import tomlkit
import urllib3

from pushtrain.core.errors import ConfigError
from pushtrain.core.owner.network import enforceable
from pushtrain.core.owner.rules import Rules
from pushtrain.core.values.card import ExecutorCard
from pushtrain.core.values.isolation import Isolation, JobNetwork
from pushtrain.core.wire.signing import fingerprint, parse_public, public_text
from pushtrain.demo.children import Children, Stumbled
from pushtrain.demo.host import Host
from pushtrain.demo.work import WorkRepository
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.plumbing.keys.authorized import Authorized, Trusted, load_or_create
from pushtrain.wiring.isolation import choose
from pushtrain.wiring.network import way_out

NAME: Final = "ada/digits"
POLL_SECONDS: Final = 10


class Parts:
    """Host, executor and sender.

    Args:
        folder: Holds all that they write.
        data: What the host serves below `/data/`.
    """

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder = folder
        self.executor = StateFolder(folder / "executor").create()
        self.sender = StateFolder(folder / "sender").create()
        self.webhook_url = ""
        self._data = data
        self._token = secrets.token_urlsafe(24)
        self._secret = secrets.token_urlsafe(24)
        self._http = urllib3.PoolManager(retries=False, timeout=5)
        self._card: ExecutorCard | None = None
        self.host = Host(folder / "host", token=self._token)
        temporary = folder / "tmp"  # what others leave in theirs (uv's locks) goes with the rest
        temporary.mkdir()
        self.children = Children(folder, {**_environment(self._token), "TMPDIR": str(temporary)})

    @property
    def remote(self) -> str:
        """The repository's address."""
        return self.host.remote(NAME)

    @property
    def card(self) -> ExecutorCard:
        """The executor's card, once it runs."""
        if self._card is None:
            raise Stumbled("The demo's executor has not been started.")
        return self._card

    @property
    def fingerprint(self) -> str:
        """The executor's identity, for people."""
        return fingerprint(parse_public(self.card.public_key))

    def start_host(self) -> None:
        """Start the Git host, with an empty repository."""
        out = self.children.start("host", "-m", "pushtrain.demo.host", self.host.root, self._data)
        self.host.url = self.children.wait_for("the Git host", lambda: _first_document(out))["url"]
        self.host.create(NAME)

    def start_executor(self) -> None:
        """Start the executor; it obeys the sender's key."""
        sender = load_or_create(self.sender.key).public_key()
        Authorized(self.executor.authorized).add(sender, name="demo-sender")
        # The sample's data lies on the demo's own host, on loopback: the owner lists it, and nothing else.
        rules = {"allow_data_hosts": [self.host.url.partition("://")[2]]}
        _write_private(self.executor.settings, tomlkit.dumps({"rules": rules}))
        where = ("--state", self.executor.root, "--repo", self.remote, "--name", "demo", "--port", "0")
        # The code is ours: whatever the machine offers is good enough.
        least = ("--min-isolation", "none", "--network", self._network())
        self.children.start("executor", "-m", "pushtrain", "executor", *where, *least)
        self._card = self.children.wait_for("the executor", self._read_card)

    def _network(self) -> JobNetwork:
        """The least that this machine can hold jobs to and they need; their code is ours."""
        way = way_out(self.executor)
        try:
            level = choose(self.executor, Rules(min_isolation=Isolation.NONE), way).level
        except ConfigError:
            return JobNetwork.FULL
        finally:
            way.close()
        can = enforceable(level, uplinks=way.uplinks is not None)
        return JobNetwork.INTERNET if JobNetwork.INTERNET in can else JobNetwork.FULL

    def start_sender(self) -> None:
        """Start the sender, which trusts the executor's key, and have the host tell it of pushes."""
        self._settle_sender()
        out = self.children.start(
            "sender", "-m", "pushtrain", "sender", "--json", "--state", self.sender.root
        )
        facts = self.children.wait_for("the sender", lambda: _first_document(out))
        self.webhook_url = str(facts["webhook"])
        self._hooks("POST", {"url": self.webhook_url, "secret": self._secret})

    def client(self) -> ExecutorClient:
        """The executor's API, with the sender's key."""
        key = parse_public(self.card.public_key)
        return ExecutorClient(self.card.public_url, key, load_or_create(self.sender.key))

    def delivery(self, commit: str) -> Mapping[str, Any] | None:
        """The webhook that told of this commit; None as long as there was none."""
        told: list[dict[str, Any]] = self._hooks("GET")
        return next((one for one in told if one["after"] == commit), None)

    def clone(self) -> WorkRepository:
        """A clone with the sample project in it, as a person has it; nothing is committed yet."""
        work = self.folder / "digits"
        with as_file(files("pushtrain.demo") / "project") as project:
            shutil.copytree(project, work, ignore=shutil.ignore_patterns("__pycache__"))
        (work / "gitignore").rename(work / ".gitignore")
        jobs = work / "pushtrain.toml"
        jobs.write_text(jobs.read_text().replace("@DATA_URL@", f"{self.host.url}/data"))
        passwords = self.folder / "git-credentials"
        _write_private(passwords, self.host.url.replace("://", f"://ada:{self._token}@") + "\n")
        person = WorkRepository(work, self.remote)
        for name, value in {
            "credential.helper": f"store --file={passwords}",
            "user.name": "Ada",
            "user.email": "ada@example.org",
        }.items():
            person.git("config", name, value)
        return person

    def _settle_sender(self) -> None:
        """Write what every verb with the sender's state folder reads."""
        executor = load_or_create(self.executor.key).public_key()
        Trusted(self.sender.trusted).add(executor, url=self.card.public_url, name="demo")
        _write_private(self.sender.webhook_secret, self._secret)
        address = {"url": self.card.public_url, "public_key": public_text(executor)}
        serving = {"port": 0, "poll_seconds": POLL_SECONDS, "executors": [address]}
        self.sender.settings.write_text(tomlkit.dumps({"repositories": [self.remote], "sender": serving}))

    def _read_card(self) -> ExecutorCard | None:
        try:
            return ExecutorCard.model_validate_json(self.executor.card.read_bytes())
        except (OSError, ValueError):
            return None

    def _hooks(self, method: str, body: object = None) -> Any:
        headers = urllib3.make_headers(basic_auth=f"demo:{self._token}")
        url = f"{self.host.url}/hooks"
        return self._http.request(method, url, headers=headers, body=json.dumps(body)).json()


def _environment(token: str) -> dict[str, str]:
    """Ours, without settings that are meant for another pushtrain or another git repository."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PUSHTRAIN", "GIT_"))}
    return {**kept, "PUSHTRAIN_GIT_TOKEN": token, "PYTHONUNBUFFERED": "1"}


def _first_document(path: Path) -> dict[str, Any] | None:
    """The JSON object that a process prints when it is ready; None as long as it is not whole."""
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except ValueError:
        return None
    return document


def _write_private(path: Path, text: str) -> None:
    path.touch(0o600)
    path.write_text(text)
