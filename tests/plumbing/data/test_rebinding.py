"""DNS rebinding with a real name server and the system's own resolver, in a network of their own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pushtrain

# In a network namespace of its own the test may be the machine's name server: port 53 of loopback is free,
# and another /etc/resolv.conf lies over the machine's. The rule lists 127.0.0.9, which so plays a public
# address; the victim listens at 127.0.0.1, where the name leads from the second question on.
CHILD = r"""
import http.server, json, os, pathlib, socket, socketserver, struct, subprocess, sys, threading
folder = pathlib.Path(sys.argv[1])
pinned = sys.argv[2] == "pinned"
(folder / "resolv.conf").write_text("nameserver 127.0.0.1\noptions attempts:1 timeout:2\n")
(folder / "nsswitch.conf").write_text("hosts: dns\n")
for name in ("resolv.conf", "nsswitch.conf"):
    there = os.path.realpath(f"/etc/{name}")
    if os.path.exists(there):
        subprocess.run(["mount", "--bind", folder / name, there], check=True)
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

questions = []

class Names(socketserver.BaseRequestHandler):
    def handle(self):
        data, answer_to = self.request
        end = data.index(b"\0", 12) + 5
        kind = struct.unpack(">H", data[end - 4 : end - 2])[0]
        found = b""
        if kind == 1:  # A: first an address that may be asked, ever after loopback
            questions.append(kind)
            address = "127.0.0.9" if len(questions) == 1 else "127.0.0.1"
            found = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 0, 4) + socket.inet_aton(address)
        head = data[:2] + struct.pack(">HHHHH", 0x8180, 1, bool(found), 0, 0)
        answer_to.sendto(head + data[12:end] + found, self.client_address)

names = socketserver.UDPServer(("127.0.0.1", 53), Names)
threading.Thread(target=names.serve_forever, daemon=True).start()

victims = []

class Victim(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        victims.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"secret")

    def log_message(self, *_):
        pass

victim = http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Victim)
threading.Thread(target=victim.serve_forever, daemon=True).start()

from pushtrain.core.errors import DataError
from pushtrain.core.values.jobspec import DataSource
from pushtrain.core.owner.rules import Rules
from pushtrain.plumbing.data import dial, download
from pushtrain.plumbing.disk.cache import Cache
from pushtrain.plumbing.data.supply import fetch
from pushtrain.plumbing.data.terms import of_rules

download._pause = lambda *_: None
if not pinned:  # what a guard is that checks first and lets the client look up again
    def careless(connection, look):
        look(connection.host, connection.port)
        return socket.create_connection((connection.host, connection.port), 5)
    dial._connect = careless
said = ""
try:
    source = DataSource(url="http://rebind.example.org:8080/x", path="x")
    terms = of_rules(Rules(allow_data_hosts=("127.0.0.9:8080",)))
    fetch(source, cache=Cache(folder / "data"), mounts={}, report=lambda *_: None, stop=lambda: None,
        terms=terms, environ={})
except DataError as error:
    said = str(error)
print(json.dumps({"victims": victims, "questions": len(questions), "said": said}))
"""


def rebind(folder: Path, how: str) -> dict[str, object]:
    folder.mkdir()
    argv = ["unshare", "--map-root-user", "--net", "--mount", sys.executable, "-c", CHILD, str(folder), how]
    ours = str(Path(pushtrain.__file__).parents[1])
    environ = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "HOME": str(folder), "PYTHONPATH": ours}
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def able() -> bool:
    """Whether this machine lets a process have a network of its own."""
    if not shutil.which("unshare") or not shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin"):
        return False
    argv = ("unshare", "--map-root-user", "--net", "--mount", "true")
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not able(), reason="needs a network namespace")
def test_a_name_server_that_changes_its_mind_gains_nothing(tmp_path: Path) -> None:
    found = rebind(tmp_path / "ours", "pinned")
    assert found["victims"] == [], "nobody at 127.0.0.1 was asked"
    assert found["questions"] == 2, "one look-up for each try"
    assert "not public (loopback)" in str(found["said"])
    assert rebind(tmp_path / "careless", "careless")["victims"], "the attack itself works"
