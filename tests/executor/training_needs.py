"""What training programs do to a machine beside computing; it must work at every level of isolation."""

POOL = """
import multiprocessing as mp
from multiprocessing import shared_memory, Pool, Queue, Manager
def work(name):
    memory = shared_memory.SharedMemory(name=name)
    found = int(memory.buf[0]) + 1
    memory.close()
    return found
if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        context = mp.get_context(method)
        memory = shared_memory.SharedMemory(create=True, size=1 << 20)
        memory.buf[0] = 41
        with context.Pool(2) as pool:
            assert pool.map(work, [memory.name] * 4) == [42] * 4
        memory.close(); memory.unlink()
        with context.Manager() as manager:
            shared = manager.dict(); shared["x"] = 1
            assert dict(shared) == {"x": 1}
    print("pool works")
"""

FDS = """
import array, os, socket, tempfile
path = os.path.join(tempfile.gettempdir(), "pymp-abcdefgh", "listener-abcdefgh")
os.makedirs(os.path.dirname(path), exist_ok=True)
server = socket.socket(socket.AF_UNIX); server.bind(path); server.listen()
if os.fork() == 0:
    own = socket.socket(socket.AF_UNIX); own.connect(path)
    descriptor = os.memfd_create("tensor"); os.write(descriptor, b"tensor")
    socket.send_fds(own, [b"x"], [descriptor]); os._exit(0)
peer, _ = server.accept()
_, fds, _, _ = socket.recv_fds(peer, 1, 1)
assert os.pread(fds[0], 6, 0) == b"tensor"
print("descriptors travel")
"""

RENDEZVOUS = """
import os, socket, sys
rank = int(sys.argv[1]) if len(sys.argv) > 1 else 0
host = socket.gethostname()
if rank == 0:
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    pid = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, sys.argv[0], "1", str(port)])
    peer, _ = server.accept()
    assert socket.getaddrinfo(host, port), "a machine must know its own name: gloo asks for it"
    peer.sendall(b"x" * 1_000_000); assert peer.recv(2) == b"ok"
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    print("two processes met")
else:
    own = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
    got = 0
    while got < 1_000_000: got += len(own.recv(65536))
    own.sendall(b"ok")
"""
