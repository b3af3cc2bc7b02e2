"""A real Git host on loopback: smart HTTP by `git http-backend`, webhooks as GitHub sends them, static files.

An ASGI application without a framework. A request's body is fed to git whole, from a file, before git's
answer is read: however large a push is, and whether or not it is chunked, neither side can wait for the other
for ever. Every repository needs the host's token (HTTP Basic, any user name), so that whoever uses the host
shows that their credentials work. Files below `/data/` are open, with ETag and byte ranges. `/hooks` sets and
lists webhooks, as GitHub's REST API does for a repository.

`hosting()` runs one in a thread, for tests and benchmarks; `python -m pushtrain.demo.host` is one by itself.
"""

import asyncio
import base64
import binascii
import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.staticfiles import StaticFiles

from pushtrain.core.values.value import Value
from pushtrain.demo.history import ENVIRONMENT, commits, exec_path, forced, git
from pushtrain.demo.webhook import Delivery, Update, Webhooks, payload, pushed
from pushtrain.plumbing.http.serve import Limits, serving
from pushtrain.plumbing.programs.proc import kill_tree

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_ROUTE: Final = re.compile(
    r"/(?P<repository>[A-Za-z0-9_-][A-Za-z0-9._-]*/[A-Za-z0-9_-][A-Za-z0-9._-]*?)(?:\.git)?"
    r"(?P<rest>/info/refs|/git-upload-pack|/git-receive-pack)"
)
_CHUNK: Final = 256 * 1024
_COMMANDS: Final = 1024 * 1024
"""Bytes at the beginning of a push in which its commands stand; more refs than that are not told of."""

Headers = list[tuple[bytes, bytes]]


class Hook(Value):
    """Where pushes are told, and with which secret."""

    url: str
    secret: str


class Host:
    """Repositories in a folder, spoken to over HTTP.

    Args:
        root: Holds the bare repositories, `OWNER/NAME.git`.
        token: The password for every repository.
        data: Folder served below `/data/`; None: nothing is.
    """

    def __init__(self, root: Path, *, token: str, data: Path | None = None) -> None:
        self.root = root
        self.token = token
        self.url = ""
        """`http://127.0.0.1:PORT`, once it is served."""
        self._data = StaticFiles(directory=data) if data is not None else None
        self._webhooks: Webhooks | None = None

    def create(self, repository: str) -> str:
        """Make an empty bare repository `OWNER/NAME`, and give the address to clone it from.

        Raises:
            GitError: git is missing, or cannot do it.
        """
        exec_path()
        folder = self.folder(repository)
        git(None, "init", "--quiet", "--bare", "--initial-branch=main", str(folder))
        settings = {
            "uploadpack.allowAnySHA1InWant": "true",  # as GitHub: exactly one commit may be fetched
            "uploadpack.allowFilter": "true",
            "receive.autogc": "false",  # nothing goes on in the background
            "gc.auto": "0",
        }
        with (folder / "config").open("a") as config:
            for name, value in settings.items():
                section, key = name.split(".")
                config.write(f"[{section}]\n\t{key} = {value}\n")
        return self.remote(repository)

    def folder(self, repository: str) -> Path:
        """Where a repository lies."""
        return self.root / f"{repository}.git"

    def remote(self, repository: str) -> str:
        """The address to clone from and push to."""
        return f"{self.url}/{repository}.git"

    def key(self, repository: str) -> str:
        """The repository key that commands name."""
        return f"{self.url.removeprefix('http://')}/{repository}"

    # --- webhooks

    def notify(self, url: str, secret: bytes) -> None:
        """Send a webhook for each push from now on."""
        self.quiet()
        self._webhooks = Webhooks(url, secret)

    def quiet(self) -> None:
        """Send no webhooks from now on."""
        before, self._webhooks = self._webhooks, None
        if before is not None:
            before.close()

    @property
    def deliveries(self) -> tuple[Delivery, ...]:
        """The webhooks that were delivered, or given up, since `notify`."""
        return self._webhooks.sent if self._webhooks else ()

    def redeliver(self, delivery: Delivery) -> Delivery:
        """Send a webhook again, with the id that it had."""
        if self._webhooks is None:
            return delivery
        return self._webhooks.again(delivery)

    # --- requests

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer one request (ASGI)."""
        path: str = scope["path"]
        if self._data is not None and path.startswith("/data/"):
            try:
                await self._data({**scope, "root_path": scope.get("root_path", "") + "/data"}, receive, send)
            except HTTPException as error:
                await _answer(send, error.status_code, b"There is no such file.\n")
            return
        route = _ROUTE.fullmatch(path)
        if path != "/hooks" and (route is None or not self.folder(route["repository"]).is_dir()):
            await _answer(send, 404, b"There is nothing here.\n")
        elif not self._admits(scope):
            realm = (b"www-authenticate", b'Basic realm="pushtrain demo"')
            await _answer(send, 401, b"Show the host's token.\n", [realm])
        elif route is None:
            await self._hooks(Request(scope, receive), send)
        else:
            await self._git_request(scope, route["repository"], route["rest"], receive, send)

    async def _hooks(self, request: Request, send: "Send") -> None:
        """POST `{"url", "secret"}` to set where pushes are told; GET what was told."""
        if request.method == "POST":
            try:
                hook = Hook.model_validate_json(await request.body())
            except ValidationError:
                await _answer(send, 422, b"A hook has `url` and `secret`.\n")
                return
            self.notify(hook.url, hook.secret.encode())
        told = [
            {
                "id": one.id,
                "ref": one.update.ref,
                "after": one.update.after,
                "status": one.status,
                "at": one.at,
                "seconds": one.seconds,
            }
            for one in self.deliveries
        ]
        await _answer(send, 200, json.dumps(told).encode(), kind=b"application/json")

    def _admits(self, scope: "Scope") -> bool:
        scheme, _, given = _header(scope, b"authorization").partition(" ")
        try:
            password = base64.b64decode(given).partition(b":")[2]
        except binascii.Error:
            return False
        return scheme.lower() == "basic" and secrets.compare_digest(password, self.token.encode())

    async def _git_request(
        self, scope: "Scope", repository: str, rest: str, receive: "Receive", send: "Send"
    ) -> None:
        with tempfile.TemporaryFile() as body:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body.write(message.get("body", b""))
                if not message.get("more_body", False):
                    break
            environment = self._environment(scope, repository, rest, body.tell())
            body.seek(0)
            with _backend(environment, body) as child:
                head = await asyncio.to_thread(_read, child)
                if rest == "/git-receive-pack":
                    while len(more := await asyncio.to_thread(_read, child)):
                        head += more
                    self._tell(repository, _commands(body, _header(scope, b"content-encoding")), head)
                await _relay(child, head, send)

    def _environment(self, scope: "Scope", repository: str, rest: str, size: int) -> dict[str, str]:
        """CGI's variables (RFC 3875), as git-http-backend(1) wants them."""
        return {
            **ENVIRONMENT,
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": _header(scope, b"git-protocol"),
            "REQUEST_METHOD": scope["method"],
            "PATH_INFO": f"/{repository}.git{rest}",
            "QUERY_STRING": scope["query_string"].decode("ascii", "replace"),
            "CONTENT_TYPE": _header(scope, b"content-type"),
            "CONTENT_LENGTH": str(size),
            "HTTP_CONTENT_ENCODING": _header(scope, b"content-encoding"),
            "REMOTE_USER": "demo",  # git serves pushes to people it knows only
            "REMOTE_ADDR": "127.0.0.1",
        }

    def _tell(self, repository: str, request: bytes, answer: bytes) -> None:
        webhooks = self._webhooks
        if webhooks is not None:
            for update in pushed(request, answer.partition(b"\r\n\r\n")[2]):
                webhooks.tell(update, partial(self._told, repository, update))

    def _told(self, repository: str, update: Update) -> bytes:
        folder = self.folder(repository)
        return payload(
            base_url=self.url,
            repository=repository,
            update=update,
            commits=commits(folder, update),
            forced=forced(folder, update),
        )


# --- one conversation -------------------------------------------------------------------------------------


def _header(scope: "Scope", name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


async def _answer(
    send: "Send",
    status: int,
    text: bytes,
    headers: Iterable[tuple[bytes, bytes]] = (),
    *,
    kind: bytes = b"text/plain; charset=utf-8",
) -> None:
    plain = (b"content-type", kind)
    size = (b"content-length", str(len(text)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [plain, size, *headers]})
    await send({"type": "http.response.body", "body": text})


@contextlib.contextmanager
def _backend(environment: Mapping[str, str], body: IO[bytes]) -> "Iterator[subprocess.Popen[bytes]]":
    """One git process for one request; whatever happens, none is left."""
    with subprocess.Popen(
        (f"{exec_path()}/git-http-backend",),
        env=dict(environment),
        stdin=body,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as child:
        try:
            yield child
        finally:
            if child.poll() is None:
                kill_tree(child.pid)


def _read(child: "subprocess.Popen[bytes]") -> bytes:
    """The next part of git's answer; a short one is the last, and git has ended."""
    data = child.stdout.read(_CHUNK) if child.stdout else b""
    if len(data) < _CHUNK:
        child.wait()
    return data


async def _relay(child: "subprocess.Popen[bytes]", head: bytes, send: "Send") -> None:
    """Pass git's answer on as it comes."""
    lines, found, data = head.partition(b"\r\n\r\n")
    if not found:
        await _answer(send, 500, b"git gave no answer.\n")
        return
    status, headers = 200, Headers()
    for line in lines.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"status":
            status = int(value.split()[0])
        else:
            headers.append((name.lower(), value.strip()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    while child.returncode is None:
        await send({"type": "http.response.body", "body": data, "more_body": True})
        data = await asyncio.to_thread(_read, child)
    await send({"type": "http.response.body", "body": data})


def _commands(body: IO[bytes], encoding: str) -> bytes:
    """The beginning of a push, uncompressed."""
    body.seek(0)
    head = body.read(_COMMANDS)
    if encoding not in {"gzip", "x-gzip"}:
        return head
    try:
        return zlib.decompressobj(wbits=31).decompress(head, _COMMANDS)
    except zlib.error:
        return b""


# --- running one ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Running:
    host: Host
    ready: threading.Event
    loop: asyncio.AbstractEventLoop | None = None
    ended: asyncio.Event | None = None
    error: BaseException | None = None

    def work(self, port: int) -> None:
        try:
            asyncio.run(self._serve(port))
        except BaseException as error:  # noqa: BLE001  told to whoever waits for us
            self.error = error
        finally:
            self.ready.set()

    async def _serve(self, port: int) -> None:
        self.loop, self.ended = asyncio.get_running_loop(), asyncio.Event()
        async with serving(self.host, "127.0.0.1", port, limits=Limits(request=600)) as bound:
            self.host.url = f"http://127.0.0.1:{bound}"
            self.ready.set()
            await self.ended.wait()
        self.host.quiet()

    def end(self) -> None:
        if self.loop is not None and self.ended is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self.loop.call_soon_threadsafe(self.ended.set)


@contextlib.contextmanager
def hosting(root: Path, *, token: str = "", data: Path | None = None, port: int = 0) -> Iterator[Host]:
    """Serve repositories on loopback, from a thread, while the block runs.

    Args:
        root: Folder for the repositories; made when missing.
        token: Password for them; empty: a random one, to be read from the host.
        data: Folder served below `/data/`.
        port: The port; 0 for any free one.

    Raises:
        PushtrainError: The address cannot be used.
    """
    root.mkdir(parents=True, exist_ok=True)
    host = Host(root, token=token or secrets.token_urlsafe(24), data=data)
    running = _Running(host, threading.Event())
    thread = threading.Thread(target=running.work, args=(port,), name="demo-host", daemon=True)
    thread.start()
    running.ready.wait()
    try:
        if running.error is not None:
            raise running.error
        yield host
    finally:
        running.end()
        thread.join()


def main() -> None:
    """`ROOT DATA`: print the address, serve until SIGTERM; the token is in the environment."""
    root, data = map(Path, sys.argv[1:])
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    with hosting(root, token=os.environ["PUSHTRAIN_GIT_TOKEN"], data=data) as host:
        sys.stdout.write(json.dumps({"url": host.url}) + "\n")
        sys.stdout.flush()
        ending.wait()


if __name__ == "__main__":
    main()
