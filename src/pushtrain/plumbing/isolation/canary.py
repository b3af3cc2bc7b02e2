"""The canary: tries from inside a level of isolation what a job must not do, and tells what it could.

Run as `python -I -S canary.py TARGETS`, where TARGETS is JSON that `plumbing/isolation/trial.py` writes;
prints JSON: for each act whether it was `done`, `denied`, or `absent` because there is nothing of the kind to
try it on. Every act is a real one and harmless: it reads one byte, connects and says nothing, signals a
decoy. Acts that would change this process are tried in a child. Standard library only; nothing of pushtrain
is there, inside.
"""

import contextlib
import ctypes
import errno
import fcntl
import glob
import json
import os
import signal
import socket
import sys
import termios
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

DONE, DENIED, ABSENT = "done", "denied", "absent"

_libc = ctypes.CDLL(None, use_errno=True)
_CALLS = {
    "x86_64": {"keyctl": 250, "bpf": 321, "io_uring_setup": 425, "mount": 165, "perf_event_open": 298},
    "aarch64": {"keyctl": 219, "bpf": 280, "io_uring_setup": 425, "mount": 40, "perf_event_open": 241},
}
_NAMESPACES = (0x10000000, 0x00020000, 0x20000000, 0x40000000)  # user, mount, pid, network
_PTRACE_SEIZE, _PTRACE_DETACH = 0x4206, 17
_AF_VSOCK, _AF_ALG = 40, 38
_SESSION_KEYRING = 0xFFFFFFFD  # KEY_SPEC_SESSION_KEYRING, -3


def readable(path: str) -> bool:
    """Whether a file gives a byte, or a folder a name."""
    try:
        if os.path.isdir(path):
            return bool(os.listdir(path))
        with open(path, "rb", buffering=0) as file:
            return bool(file.read(1))
    except OSError:
        return False


def any_of(tries: Iterable[Any], could: Callable[[Any], bool]) -> str:
    """Done if one of them could be done; absent if there is none."""
    given = list(tries)
    if not given:
        return ABSENT
    return DONE if any(could(one) for one in given) else DENIED


def connects(address: Any, family: int = socket.AF_UNIX) -> bool:
    """Whether somebody takes a connection there."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as own:
            own.settimeout(1)
            own.connect(address)
            return True
    except OSError:
        return False


def opens(path: str, how: int = os.O_RDONLY) -> bool:
    """Whether a device or a file of the kernel's can be opened."""
    try:
        os.close(os.open(path, how | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in {errno.EBUSY, errno.ENXIO, errno.EIO, errno.ENODEV, errno.ENOMEDIUM}
    return True


def in_a_child(could: Callable[[], bool]) -> bool:
    """Try something that would change this process."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if could() else 1
        except OSError:
            pass
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def start_of(pid: int) -> int:
    """When a process began; 0: there is none to be seen."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return 0
    return int(text[text.rindex(b")") + 2 :].split()[19])


# --- the acts ---------------------------------------------------------------------------------------------


def environ(targets: Any) -> str:
    """Any process's environment with the decoy's secret in it: the executor's is read in the same way."""
    wanted = "".join(targets["halves"]).encode()  # our own arguments must not hold it whole
    for path in glob.glob("/proc/[0-9]*/environ"):
        try:
            with open(path, "rb") as file:
                if wanted in file.read():
                    return DONE
        except OSError:
            continue
    return DENIED


def command_lines(targets: Any) -> str:
    """The decoy among the processes."""
    return DONE if start_of(targets["decoy"]) == targets["start"] else DENIED


def send_signal(targets: Any) -> str:
    """Signal the decoy; the trial looks whether it came."""
    try:
        os.kill(targets["decoy"], signal.SIGUSR1)
    except OSError:
        return DENIED
    return DONE if start_of(targets["decoy"]) == targets["start"] else "sent"


def trace(targets: Any) -> str:
    """Seize the decoy as a debugger does."""
    pid = targets["decoy"]

    def could() -> bool:
        if start_of(pid) not in {0, targets["start"]}:
            return False  # a process of ours that has the same number in here
        if _libc.ptrace(_PTRACE_SEIZE, pid, None, None) != 0:
            return False
        _libc.ptrace(_PTRACE_DETACH, pid, None, None)
        return True

    return DONE if in_a_child(could) else DENIED


def write(targets: Any) -> str:
    """Leave a file where the trial looks for it; it knows best which of these places are ours alone."""
    for folder in targets["write"]:
        try:
            with open(os.path.join(folder, targets["nonce"]), "xb"):
                pass
        except OSError:
            continue
    return DENIED


def modes(targets: Any) -> str:
    """Change who may read a file that is not ours to change."""
    try:
        os.chmod(targets["modes"], 0o640)
    except OSError:
        return DENIED
    return DONE


def abstract(targets: Any) -> str:
    """Sockets without a file: the trial's own, and those that others have bound."""
    return any_of(("\0" + name for name in targets["abstract"]), connects)


def wsl(targets: Any) -> str:
    """The sockets that Windows programs are started through, and a Windows program itself."""
    if not targets["wsl"]:
        return ABSENT
    if any(connects(path) for path in targets["wsl"]):
        return DONE
    return DONE if in_a_child(_runs_windows) else DENIED


def _runs_windows() -> bool:
    program = os.memfd_create("canary.exe", 0)
    os.write(program, b"MZ" + bytes(510))
    try:
        os.execve(program, ["canary.exe"], {})  # noqa: S606  no shell is the point
    except OSError as error:
        return error.errno not in {errno.ENOEXEC, errno.EPERM, errno.EACCES, errno.ENOENT}


def loopback(targets: Any) -> str:
    """The trial's own server, which listens where the executor's does."""
    return any_of([tuple(one) for one in targets["loopback"]], lambda at: connects(at, socket.AF_INET))


def shared_memory(targets: Any) -> str:
    """A segment of System V, and a file in `/dev/shm`."""
    _libc.shmat.restype = ctypes.c_void_p
    at = _libc.shmat(targets["segment"], None, 0o10000)  # SHM_RDONLY
    if at not in {None, ctypes.c_void_p(-1).value}:
        held = ctypes.string_at(at, len(targets["nonce"]))
        if held == targets["nonce"].encode():
            return DONE
    return any_of(targets["shm"], readable)


def privileges(targets: Any) -> str:
    """Capabilities, another user, root's work, and what a setuid program would get."""
    del targets
    with open("/proc/self/status", encoding="ascii") as file:
        status = dict(line.split(":\t", 1) for line in file if ":\t" in line)
    if int(status["CapEff"], 16) or int(status["CapPrm"], 16) or status["NoNewPrivs"].strip() != "1":
        return DONE
    other = 0 if os.getuid() else 12345

    tries: tuple[Callable[[], bool], ...] = (
        lambda: _libc.setgroups(1, (ctypes.c_uint * 1)(0)) == 0,
        lambda: _libc.setresuid(other, other, other) == 0,
        lambda: _libc.chroot(b"/") == 0,
    )
    return DONE if any(map(in_a_child, tries)) else DENIED


def set_uid(targets: Any) -> str:
    """Leave a file of ours that runs as its owner; the trial looks whose it is outside."""
    with contextlib.suppress(OSError):
        place = os.path.join(targets["own"], "set-uid")
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o700))
        os.chmod(place, 0o4755)  # noqa: S103  that is the act
    return DENIED


def settings(targets: Any) -> str:
    """Open the kernel's settings for writing; nothing is written."""
    return any_of(targets["settings"], lambda path: opens(path, os.O_WRONLY))


def namespaces(targets: Any) -> str:
    """New namespaces in each way, and a mount."""
    mount = targets["calls"]["mount"]
    for flag in _NAMESPACES:
        if in_a_child(partial(_unshares, flag)):
            return DONE
    could = in_a_child(lambda: bool(_libc.syscall(mount, b"none", b"/tmp", b"tmpfs", 0, None) == 0))
    return DONE if could else DENIED


def _unshares(flag: int) -> bool:
    return bool(_libc.unshare(flag) == 0)


def kernel(targets: Any) -> str:
    """Parts of the kernel that training has no use for, and that holes are found in."""
    calls = targets["calls"]
    attribute = ctypes.create_string_buffer(120)

    def tries() -> Iterable[tuple[Any, ...]]:
        yield calls["keyctl"], 0, ctypes.c_int32(_SESSION_KEYRING), 0  # KEYCTL_GET_KEYRING_ID
        yield calls["bpf"], 0, attribute, len(attribute)
        yield calls["io_uring_setup"], 1, attribute
        yield calls["perf_event_open"], attribute, 0, -1, -1, 0

    # What the kernel looks into and finds wrong, EINVAL or EFAULT, it would have done with other words.
    refused = {errno.EPERM, errno.EACCES, errno.ENOSYS}
    for one in tries():
        if _libc.syscall(*one) >= 0 or ctypes.get_errno() not in refused:
            return DONE
    return DENIED


def sockets(targets: Any) -> str:
    """Sockets to the hypervisor, raw packets, the kernel's cryptography, its audit trail."""
    del targets
    kinds = (
        (_AF_VSOCK, socket.SOCK_STREAM, 0),
        (_AF_ALG, socket.SOCK_SEQPACKET, 0),
        (socket.AF_PACKET, socket.SOCK_RAW, 0),
        (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        (socket.AF_NETLINK, socket.SOCK_RAW, 9),  # NETLINK_AUDIT
    )
    for family, kind, protocol in kinds:
        try:
            socket.socket(family, kind, protocol).close()
        except OSError:
            continue
        return DONE
    return DENIED


def terminal(targets: Any) -> str:
    """Push a character into a terminal of our own; whoever can may do it to another that is left open."""
    del targets

    def could() -> bool:
        _, side = os.openpty()
        os.setsid()
        fcntl.ioctl(side, termios.TIOCSCTTY, 0)
        fcntl.ioctl(side, termios.TIOCSTI, b"x")
        return True

    return DONE if in_a_child(could) else DENIED


def main() -> None:
    """Try everything; print what came of it."""
    targets = json.loads(sys.argv[1])
    targets["calls"] = _CALLS[os.uname().machine]
    acts: dict[str, Callable[[Any], str]] = {
        "ENVIRON": environ,
        "COMMAND_LINES": command_lines,
        "TRACE": trace,
        "WRITE": write,
        "MODES": modes,
        "ABSTRACT": abstract,
        "WSL": wsl,
        "LOOPBACK": loopback,
        "SHARED_MEMORY": shared_memory,
        "PRIVILEGES": privileges,
        "SET_UID": set_uid,
        "SETTINGS": settings,
        "NAMESPACES": namespaces,
        "KERNEL": kernel,
        "SOCKETS": sockets,
        "TERMINAL": terminal,
        "SIGNAL": send_signal,  # the last: it ends the decoy
    }
    told = {name: any_of(paths, readable) for name, paths in targets["files"].items()}
    told |= {name: any_of(paths, connects) for name, paths in targets["sockets"].items()}
    for name in ("DEVICES", "ROOTS_FILES"):
        told[name] = any_of(targets[name.lower()], opens)
    for name, act in acts.items():
        told[name] = act(targets)
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
