"""Which system calls a job may make: a filter in the kernel's form (classic BPF), for bubblewrap or prctl.

A job needs nearly all of them, so what is refused is listed: what reaches out of a sandbox or into parts of
the kernel that training has no use for, such as keyrings, BPF, mounts and new namespaces, modules, clocks,
handles of files, `io_uring`; sockets other than UNIX's and the internet's; pushing characters into a terminal
(TIOCSTI). A call newer than this list does not exist for a job. Numbers are those of Linux's UAPI headers.
Nothing here touches the kernel: `program` is pure.
"""

import errno
import os
import struct
from collections.abc import Iterator
from typing import Any, Final

_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_KILL: Final = 0x80000000

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_ABOVE: Final = 0x25  # BPF_JMP | BPF_JGT | BPF_K
_ANY: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

_MACHINES: Final = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Column below, and `AUDIT_ARCH_…`."""

_NEWEST: Final = 469
"""file_setattr (Linux 6.17). From 424 on, all machines count alike."""

_REFUSED: Final[dict[str, tuple[int, int | None]]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "perf_event_open": (298, 241),
    "pivot_root": (155, 41),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
"""Refused with EPERM: the number on x86_64 and on aarch64, None where there is no such call."""

_TOGETHER: Final[dict[str, tuple[int, int]]] = {
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "semget": (64, 190),
    "shmat": (30, 196),
    "shmget": (29, 194),
}
"""Refused too where a job shares IPC with everybody else: System V's, and POSIX's queues."""

_ABSENT: Final = {"clone3": 435, "io_uring_enter": 426, "io_uring_register": 427, "io_uring_setup": 425}
"""Answered ENOSYS, so that programs fall back to what they did before: clone3 hides its flags in memory."""

_CLONE: Final = (56, 220)
_UNSHARE: Final = (272, 97)
_SOCKET: Final = (41, 198)
_IOCTL: Final = (16, 29)
_PRLIMIT: Final = (302, 261)

_NEW_NAMESPACES: Final = 0x7E020000
"""CLONE_NEWNS, -CGROUP, -UTS, -IPC, -USER, -PID, -NET."""
_NEW_TIME: Final = 0x80
"""CLONE_NEWTIME; for clone(2) these bits are a signal's number."""
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_FAMILIES: Final = 64
"""More than the kernel has."""
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C


def missing(machine: str | None = None) -> tuple[str, str]:
    """Why there is no filter for this kind of processor, and the mend; empty: there is one."""
    machine = machine or os.uname().machine
    return ("", "") if machine in _MACHINES else (f"there is no filter of system calls for {machine}", "")


def program(machine: str | None = None, *, alone: bool) -> bytes:
    """The filter: an array of `struct sock_filter`.

    Args:
        alone: Whether there are namespaces around the job, for IPC and for processes.
        machine: As `uname -m` says it; None: this machine's.

    Raises:
        KeyError: There is no filter for it.
    """
    column, arch = _MACHINES[machine or os.uname().machine]
    return b"".join(struct.pack("=HBBI", *one) for one in _instructions(column, arch, alone=alone))


def profile() -> dict[str, Any]:
    """The same list in the form that Docker and Podman read, which knows calls by their names."""
    eperm, enosys = errno.EPERM, errno.ENOSYS
    rules: list[dict[str, Any]] = [_rule([*_REFUSED], eperm), _rule([*_ABSENT], enosys)]
    bits = [1 << number for number in range(32) if _NEW_NAMESPACES & 1 << number]
    for call, more in (("clone", []), ("unshare", [_NEW_TIME])):
        rules += [_rule([call], eperm, 0, "SCMP_CMP_MASKED_EQ", bit, bit) for bit in (*bits, *more)]
    rules += [_rule(["ioctl"], eperm, 1, "SCMP_CMP_EQ", request) for request in (_TIOCSTI, _TIOCLINUX)]
    known = {_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK}
    families = [family for family in range(_FAMILIES) if family not in known]
    rules += [_rule(["socket"], errno.EAFNOSUPPORT, 0, "SCMP_CMP_EQ", family) for family in families]
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}


def _rule(names: list[str], error: int, *test: Any) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": error}
    if test:
        index, operator, value, *second = test
        rule["args"] = [
            {"index": index, "value": value, "valueTwo": second[0] if second else 0, "op": operator}
        ]
    return rule


_Instruction = tuple[int, int, int, int]


def _instructions(column: int, arch: int, *, alone: bool) -> Iterator[_Instruction]:
    yield (_LOAD, 0, 0, _ARCH)
    yield (_EQUAL, 1, 0, arch)
    yield (_RETURN, 0, 0, _KILL)  # a program for another processor's mode would count its calls otherwise
    yield (_LOAD, 0, 0, _NUMBER)
    yield from _when(_ABOVE, _NEWEST, errno.ENOSYS)  # x32's calls, too: they begin at 0x40000000
    refused = _REFUSED if alone else _REFUSED | _TOGETHER
    for numbers in refused.values():
        number = numbers[column]
        if number is not None:
            yield from _when(_EQUAL, number, errno.EPERM)
    for number in _ABSENT.values():
        yield from _when(_EQUAL, number, errno.ENOSYS)
    yield from _call(_CLONE[column], 0, [*_when(_ANY, _NEW_NAMESPACES, errno.EPERM)])
    yield from _call(_UNSHARE[column], 0, [*_when(_ANY, _NEW_NAMESPACES | _NEW_TIME, errno.EPERM)])
    # The kernel looks at the lower half of these arguments only, and so does the filter.
    terminals = [*_when(_EQUAL, _TIOCSTI, errno.EPERM), *_when(_EQUAL, _TIOCLINUX, errno.EPERM)]
    yield from _call(_IOCTL[column], 1, terminals)
    if not alone:  # of others' limits, too, one could die
        yield from _call(_PRLIMIT[column], 0, [(_EQUAL, 1, 0, 0), (_RETURN, 0, 0, _ERRNO | errno.EPERM)])
    yield from _call(_SOCKET[column], 0, _sockets())
    yield (_RETURN, 0, 0, _ALLOW)


def _when(test: int, value: int, error: int) -> Iterator[_Instruction]:
    """Answer with an error if what is loaded passes the test."""
    yield (test, 0, 1, value)
    yield (_RETURN, 0, 0, _ERRNO | error)


def _call(number: int, argument: int, then: list[_Instruction]) -> Iterator[_Instruction]:
    """For one call load the lower half of an argument, do `then`, and allow what it lets through."""
    yield (_EQUAL, 0, len(then) + 2, number)
    yield (_LOAD, 0, 0, _ARGUMENTS + 8 * argument)
    yield from then
    yield (_RETURN, 0, 0, _ALLOW)


def _sockets() -> list[_Instruction]:
    """UNIX, internet, and netlink for routes alone: programs ask it for the machine's addresses."""
    return [
        (_EQUAL, 7, 0, _AF_UNIX),
        (_EQUAL, 6, 0, _AF_INET),
        (_EQUAL, 5, 0, _AF_INET6),
        (_EQUAL, 1, 0, _AF_NETLINK),
        (_RETURN, 0, 0, _ERRNO | errno.EAFNOSUPPORT),
        (_LOAD, 0, 0, _ARGUMENTS + 8 * 2),
        (_EQUAL, 1, 0, 0),
        (_RETURN, 0, 0, _ERRNO | errno.EPROTONOSUPPORT),
    ]
