"""The bare work by hand: what any system that does this job must at least do, in the fewest git processes.

Take a webhook durably, hand it over durably (each one loopback HTTP request and one fsync), fetch exactly one
commit over smart HTTP into a bare mirror, check it out, start `python -c`, commit three files, push.
"""

import http.server
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.world import World, environment


@dataclass(frozen=True)
class Times:
    """Seconds since the webhook was sent."""

    first: float
    done: float


class _Durable(http.server.BaseHTTPRequestHandler):
    folder: Path

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        with (self.folder / "kept").open("ab") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        self.send_response(202)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def receiver(folder: Path) -> Iterator[str]:
    """A loopback server that writes down what it is sent."""
    handler = type("Handler", (_Durable,), {"folder": folder})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _git(mirror: Path, *argv: str, env: dict[str, str], given: bytes | None = None) -> bytes:
    done = subprocess.run(
        ("git", f"--git-dir={mirror}", "-c", "gc.auto=0", "-c", "maintenance.auto=false", *argv),
        env=env,
        input=given,
        capture_output=True,
        check=True,
    )
    return done.stdout.strip()


class ByHand:
    """The floor for one repository of a world."""

    def __init__(self, world: World, name: str) -> None:
        self.folder = world.folder / f"floor-{name}"
        self.folder.mkdir()
        self.mirror = self.folder / "mirror.git"
        self.env = environment(
            TOKEN=world.host.token,
            GIT_CONFIG_COUNT="1",
            GIT_CONFIG_KEY_0="credential.helper",
            GIT_CONFIG_VALUE_0='!f() { echo username=x; echo "password=$TOKEN"; }; f',
        )
        subprocess.run(("git", "init", "-q", "--bare", str(self.mirror)), env=self.env, check=True)
        _git(self.mirror, "remote", "add", "origin", world.host.remote(f"bench/{name}"), env=self.env)
        _git(self.mirror, "fetch", "-q", "origin", env=self.env)
        self.tip = ""
        self.count = 0

    def run(self, url: str, commit: str) -> Times:
        """One whole line by hand."""
        self.count += 1
        tree = self.folder / f"tree-{self.count}"
        tree.mkdir()
        begun = time.time()
        for _ in range(2):  # the webhook, and the hand-over
            with urllib.request.urlopen(
                urllib.request.Request(url, data=commit.encode()), timeout=10
            ) as answer:
                answer.read()
        _git(self.mirror, "fetch", "-q", "--no-tags", "--no-write-fetch-head", "origin", commit, env=self.env)
        env = self.env | {"GIT_INDEX_FILE": str(self.folder / "index")}
        _git(self.mirror, f"--work-tree={tree}", "read-tree", "--reset", "-u", commit, env=env)
        (self.folder / "index").unlink()
        code = "import time; print(time.time())"
        printed = subprocess.run((sys.executable, "-c", code), cwd=tree, capture_output=True, check=True)
        new = self._commit({"README.md": b"# ok\n", "log.txt": printed.stdout, "run.json": b"{}\n"})
        _git(self.mirror, "push", "-q", "origin", f"{new}:refs/heads/floor", env=self.env)
        return Times(float(printed.stdout) - begun, time.time() - begun)

    def _commit(self, files: dict[str, bytes]) -> str:
        stream = [b"commit refs/heads/floor\ncommitter f <f@example.org> 0 +0000\ndata 3\nrun\n"]
        if self.tip:
            stream.append(f"from {self.tip}\n".encode())
        stream += [
            f"M 100644 inline runs/{self.count}/{name}\ndata {len(data)}\n".encode() + data + b"\n"
            for name, data in files.items()
        ]
        _git(self.mirror, "fast-import", "--quiet", "--force", env=self.env, given=b"".join(stream))
        self.tip = _git(self.mirror, "rev-parse", "refs/heads/floor", env=self.env).decode()
        return self.tip
