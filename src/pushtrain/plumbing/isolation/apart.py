"""Become somebody else before becoming a command: `confine.py`'s other half, for root's executor.

Either as the user alone, or as root of a user namespace that has nobody but this user in it: bubblewrap can
make a sandbox there, and the machine's own uid 0 has no part in it. That user could not pass through root's
folders on the way to what the sandbox shows, so mounts of it are brought along.

As in all that the shim loads, only the standard library's cheap half is imported.
"""

import ctypes
import os
from _struct import pack

TYPE_CHECKING = False  # typing's own costs 10 ms
if TYPE_CHECKING:
    from collections.abc import Sequence

AT_EMPTY_PATH = 0x1000
AT_FDCWD = -100
AT_RECURSIVE = 0x8000
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MOUNT_ATTR_IDMAP = 0x00100000
MOUNT_SETATTR = 442
MOVE_MOUNT = 429
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MS_NOSUID_NODEV = 0x6
MS_REC_SLAVE = 0x84000
NOTHING_THERE = {2, 20}  # ENOENT, ENOTDIR
OPEN_TREE = 428
OPEN_TREE_CLONE = 0x1
PR_GET_PDEATHSIG = 2
PR_SET_PDEATHSIG = 1
S_IFDIR = 0o040000
S_IFIFO = 0o010000
S_IFMT = 0o170000

libc = ctypes.CDLL(None, use_errno=True)


def did(result: int, what: str) -> int:
    """What a call of the C library returned; raises what it complained of."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def become_another(
    user: "Sequence[int]", groups: "Sequence[int]", trees: "Sequence[tuple[str, bool]] | None"
) -> None:
    """Become somebody else, who still ends with our parent: the kernel forgets that on the way."""
    parent, dies_with_it = os.getppid(), death_signal()
    hand_over(*user)
    os.setgroups(groups)
    if trees is None:
        become(*user)
    else:
        go_apart(user, trees)
    if dies_with_it:
        did(libc.prctl(PR_SET_PDEATHSIG, dies_with_it, 0, 0, 0), "the parent's death")
        if os.getppid() != parent:
            raise OSError(0, "the parent has ended")


def death_signal() -> int:
    """The signal that we get when our parent ends; 0: none."""
    found = ctypes.c_int()
    libc.prctl(PR_GET_PDEATHSIG, ctypes.byref(found), 0, 0, 0)
    return found.value


def hand_over(user: int, group: int) -> None:
    """Let somebody else open what the output goes to, as `/dev/stderr`, where it is a pipe of ours."""
    for number in (1, 2):
        if os.fstat(number).st_mode & S_IFMT == S_IFIFO:
            os.fchown(number, user, group)


def become(user: int, group: int) -> None:
    """Become somebody else, for good."""
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)


def go_apart(user: "Sequence[int]", trees: "Sequence[tuple[str, bool]]") -> None:
    """Become root of a user namespace in which there is nobody but one user, who is nobody's outside.

    What stands at `trees` comes along at `/tmp/0`, `/tmp/1` …, by mounts that only we see: that user could
    not pass through root's folders on the way there. What is not there is left out.
    """
    did(libc.unshare(CLONE_NEWNS), "a mount namespace")
    did(libc.mount(None, b"/", None, MS_REC_SLAVE, None), "mounts of our own")
    namespace = user_namespace(*user)
    found = [shown(tree(path), namespace, writable=writable) for path, writable in trees]
    did(libc.mount(b"tmpfs", b"/tmp", b"tmpfs", MS_NOSUID_NODEV, b"mode=711"), "a place for mounts")
    for number, one in enumerate(found):
        if one >= 0:
            hang(one, f"/tmp/{number}")  # noqa: S108  our own, by now
    did(libc.setns(namespace, CLONE_NEWUSER), "the job's user namespace")
    os.close(namespace)
    become(0, 0)


def tree(path: str) -> int:
    """A mount of what stands at a path, still without a place; -1: there is nothing."""
    flags = OPEN_TREE_CLONE | AT_RECURSIVE | os.O_CLOEXEC
    found = libc.syscall(OPEN_TREE, AT_FDCWD, os.fsencode(path), flags)
    if found < 0 and ctypes.get_errno() in NOTHING_THERE:
        return -1
    return did(found, path)


def shown(one: int, namespace: int, *, writable: bool) -> int:
    """Let what is only read and root's own be that of the namespace's root.

    Not every file system can do that. There a job reads what everybody may read.
    """
    if one >= 0 and not writable:
        owned = pack("QQQQ", MOUNT_ATTR_IDMAP, 0, 0, namespace)
        libc.syscall(MOUNT_SETATTR, one, b"", AT_EMPTY_PATH, owned, len(owned))
    return one


def hang(one: int, place: str) -> None:
    """Give a mount its place, a folder or a file that is made for it."""
    if os.fstat(one).st_mode & S_IFMT == S_IFDIR:
        os.mkdir(place)
    else:
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC))
    moved = libc.syscall(MOVE_MOUNT, one, b"", AT_FDCWD, os.fsencode(place), MOVE_MOUNT_F_EMPTY_PATH)
    did(moved, place)
    os.close(one)


def user_namespace(user: int, group: int) -> int:
    """A user namespace whose root is this user, and which has nobody else in it; its descriptor."""
    told, tell = os.pipe()
    wait, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(go)
            did(libc.unshare(CLONE_NEWUSER), "a user namespace")
            os.write(tell, b"1")
            os.read(wait, 1)
        finally:
            os._exit(0)
    for one in (tell, wait):
        os.close(one)
    try:
        if os.read(told, 1) != b"1":
            raise OSError(0, "a user namespace could not be made")
        for name, number in (("gid_map", group), ("uid_map", user)):
            with open(f"/proc/{pid}/{name}", "wb", buffering=0) as file:
                file.write(b"0 %d 1" % number)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for one in (told, go):
            os.close(one)
        os.waitpid(pid, 0)
