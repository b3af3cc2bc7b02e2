"""Take down what a job says: the shim's other half, so standard library only and few imports.

The job writes into a pipe and never has the log itself: with that it could truncate it, or write over what it
said before. Here it is copied to the end of the log, to the byte. A second process holds the pipe, and copies
what a shim that is killed has left in it. Past head and tail the middle is let go by punching a hole, so
offsets and sizes stay those of everything that was said, at any speed: a writer that is quicker than the disk
waits. On a full disk what cannot be kept becomes a part of the hole, and counts.
"""

import ctypes
import errno
import fcntl
import os

FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2
F_SETPIPE_SZ = 1031
SIGKILL = 9

LOG = 1  # standard output of the shim
ROOM = 1 << 20  # the largest pipe that everybody may have
BLOCK = 65536  # holes begin and end at a multiple of any file system's block

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)


class Tape:
    """A job's output on its way to the log."""

    def __init__(self) -> None:
        self.heard, self.given = os.pipe()
        """What we read from, and what the job writes into."""
        self.second = 0
        """The pid of the process that copies the rest when we are killed; 0: there is none."""
        os.set_blocking(self.heard, False)
        try:
            self.straight = os.open(f"/proc/self/fd/{LOG}", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            self.straight = -1  # what we have read when we are killed is lost then
        self.limit = 0
        """Bytes of the log that are kept; 0: all."""
        self.elided: tuple[int, int] | None = None
        try:
            fcntl.fcntl(self.given, F_SETPIPE_SZ, ROOM)
        except OSError:
            return  # this user has many pipes already; 64 KiB do

    def hold(self, *, apart_from: "tuple[int, ...]" = ()) -> None:
        """Fork the process that copies the rest when we are killed, whatever else dies with us.

        The log is locked as long as one of us two lives.

        Args:
            apart_from: Descriptors that it does not keep.
        """
        fcntl.flock(LOG, fcntl.LOCK_EX | fcntl.LOCK_NB)
        life, ours = os.pipe()  # ours is closed by our death, and by nothing else
        pid = os.fork()
        if pid:
            os.close(life)
            self.second = pid
            return
        try:
            for one in (ours, *apart_from):
                os.close(one)
            os.setsid()
            if not os.read(life, 1):
                self.copy_to_the_end()
        finally:
            os._exit(0)

    def copy_to_the_end(self) -> None:
        """Write down what is said until nobody is left who could say more, or it becomes too much.

        A job lives on for some milliseconds when its shim is killed, in a sandbox above all.
        """
        os.close(self.given)
        os.set_blocking(self.heard, True)
        copied = 0
        while copied < 64 * ROOM and (moved := self.move()):
            copied += moved

    def let_go(self) -> None:
        """End it: everything is copied."""
        if self.second:
            try:
                os.kill(self.second, SIGKILL)
                os.waitpid(self.second, 0)
            except OSError:
                pass  # somebody has killed it, and it is buried

    def copy(self) -> int:
        """Write down what has been said so far; how many bytes that were."""
        copied = 0
        while copied < 64 * ROOM:  # whoever never stops must not keep us from everything else
            try:
                copied += self.move()
            except BlockingIOError:
                break
            self.trim()
        return copied

    def move(self) -> int:
        """Move some of what was said to the end of the log; how many bytes.

        The kernel moves them: there is no moment in which they are in our hands alone, and lost with us.

        Raises:
            BlockingIOError: Nothing was said.
        """
        if self.straight >= 0:
            try:
                return os.splice(self.heard, self.straight, ROOM, offset_dst=self.size())
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    raise
        data = os.read(self.heard, ROOM)  # the disk is full, or the file system cannot do it
        self.append(data)
        return len(data)

    def append(self, data: bytes) -> None:
        """Write to the end of the log."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(LOG, rest) :]
            except OSError as error:
                if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                    raise
                os.ftruncate(LOG, self.size() + len(rest))
                return

    def say(self, text: str) -> None:
        """Write a line of our own, behind everything that the job has said."""
        self.copy()
        self.append(f"pushtrain: {text}\n".encode("utf-8", "replace"))

    @staticmethod
    def size() -> int:
        """Bytes that were said, those let go included."""
        return os.fstat(LOG).st_size

    def trim(self, *, exact: bool = False) -> None:
        """Let go what lies between the log's head and tail, once that is worth it."""
        half, size = self.limit // 2, self.size()
        if not self.limit or size <= self.limit:
            return
        begin = -(-half // BLOCK) * BLOCK
        end = (size - half) // BLOCK * BLOCK
        kept = self.elided[1] if self.elided else begin
        if end - kept < (BLOCK if exact else max(half // 4, BLOCK)):
            return
        if _libc.fallocate(LOG, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, begin, end - begin) == 0:
            self.elided = (begin, end)
