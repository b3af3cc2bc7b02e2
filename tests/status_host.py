"""GitHub's API on loopback, as far as commit statuses go: what comes in and what goes out keeps its contract.

Every request and every answer is checked against GitHub's own description (fixtures/github). It answers as
told by `script`, else as GitHub does when all is well.
"""

import http.server
import json
import re
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openapi_schema_validator import OAS30ReadValidator, OAS30WriteValidator

DESCRIPTION = json.loads(
    (Path(__file__).parent / "fixtures" / "github" / "openapi-statuses.json").read_text("utf-8")
)
STATUSES = DESCRIPTION["paths"]["/repos/{owner}/{repo}/statuses/{sha}"]["post"]
REPOSITORY = DESCRIPTION["paths"]["/repos/{owner}/{repo}"]["get"]
EXAMPLES = DESCRIPTION["components"]["examples"]
TOKEN = "github_pat_only-for-this-test"


@dataclass(frozen=True)
class Scripted:
    """An answer out of the ordinary."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None


@dataclass(frozen=True)
class Got:
    """A status that was told, and where."""

    path: str
    body: dict[str, Any]

    @property
    def short(self) -> tuple[str, str, str]:
        """Context, state, description."""
        return self.body["context"], self.body["state"], self.body["description"]


class StatusApi:
    """What stands at `url`, and what it was told."""

    def __init__(self) -> None:
        self.url = ""
        self.got: list[Got] = []
        self.asked: list[str] = []
        self.script: deque[Scripted] = deque()
        self.shown: deque[Scripted] = deque()
        """Answers to who asks for a repository, before those of `script`."""
        self.gate = threading.Event()
        """While it is not set, nobody gets an answer."""
        self.gate.set()
        self.broken: list[str] = []
        """What was against the contract; the fixture fails the test when there is anything."""

    @property
    def host(self) -> str:
        """The Git host that this API belongs to."""
        return self.url.partition("://")[2]

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Scripted:
        self.asked.append(f"{method} {path}")
        self.gate.wait(30)
        if headers.get("authorization") != f"Bearer {TOKEN}":
            return Scripted(401, body={"message": "Bad credentials", "documentation_url": "…"})
        if headers.get("accept") != "application/vnd.github+json" or "user-agent" not in headers:
            self.broken.append(f"headers: {dict(headers)}")
        if self.shown and method == "GET":
            return self.shown.popleft()
        if self.script:
            return self.script.popleft()
        return self._created(path, body) if method == "POST" else self._repository(path)

    def _created(self, path: str, body: bytes) -> Scripted:
        if not re.fullmatch(r"/repos/[\w.-]+/[\w.-]+/statuses/[0-9a-f]{40}", path):
            self.broken.append(f"no operation: POST {path}")
        document = json.loads(body)
        self._check(OAS30WriteValidator, STATUSES["requestBody"]["content"], document)
        for name, most in (("context", 255), ("description", 140)):
            if len(document[name]) > most:
                self.broken.append(f"{name} is longer than {most}")
        self.got.append(Got(path, document))
        made = {**EXAMPLES["status"]["value"], **document, "id": len(self.got)}
        self._check(OAS30ReadValidator, STATUSES["responses"]["201"]["content"], made)
        return Scripted(201, {"Location": f"{self.url}{path}"}, made)

    def _repository(self, path: str) -> Scripted:
        if not re.fullmatch(r"/repos/[\w.-]+/[\w.-]+", path):
            self.broken.append(f"no operation: GET {path}")
        example = EXAMPLES["full-repository-default-response"]["value"]
        extra = {"language": "Python"}  # demanded by the description, and missing in its own example
        found = {**example, **extra, "source": {**example["source"], **extra}}
        found["permissions"] = {**example["permissions"], "push": True}
        self._check(OAS30ReadValidator, REPOSITORY["responses"]["200"]["content"], found)
        return Scripted(200, body=found)

    def _check(self, kind: Any, content: Mapping[str, Any], document: Any) -> None:
        schema = {**content["application/json"]["schema"], "components": DESCRIPTION["components"]}
        self.broken += [error.message for error in kind(schema).iter_errors(document)]


@contextmanager
def serving_statuses() -> Iterator[StatusApi]:
    """The API, serving while the block runs; a request against the contract is an error at its end."""
    api = StatusApi()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self._reply(self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def do_GET(self) -> None:
            self._reply(b"")

        def _reply(self, body: bytes) -> None:
            reply = api.answer(
                self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body
            )
            content = b"" if reply.body is None else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert api.broken == []
