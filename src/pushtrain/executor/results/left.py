"""Open what a job left: a regular file of the run's own, and nothing else that the job may have put there.

A job may make a folder, a FIFO, a link or another name of somebody else's file of anything that it writes,
and do so at the very moment at which we look. Whatever is wrong is an OSError, and no descriptor stays open.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Final

from pushtrain.executor.results.hardlinks import Links
from pushtrain.plumbing.attempts.rundir import RunDir

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def links_of(folder: RunDir) -> Links:
    """Which files have no name outside of what this attempt's job, and those before it, could write."""
    return Links((folder.job, folder.checkpoint, folder.before))


@contextmanager
def opened(path: Path, trusted: Path, links: Links) -> Iterator[IO[bytes]]:
    """A file that a job left, open; no link between a folder of ours and it is followed.

    Args:
        path: It.
        trusted: A folder of ours that holds it.
        links: Tells whether all its names are the run's.

    Raises:
        OSError: It is not there, or is something else.
    """
    with ExitStack() as folders:
        at = os.open(trusted, _FOLDER & ~os.O_NOFOLLOW)
        folders.callback(os.close, at)
        *names, last = path.relative_to(trusted).parts
        for name in names:
            below = os.open(name, _FOLDER, dir_fd=at)
            folders.pop_all().close()
            folders.callback(os.close, below)
            at = below
        with regular(last, at, links) as content:
            yield content


@contextmanager
def regular(name: str, at: int, links: Links) -> Iterator[IO[bytes]]:
    """A file in an open folder, as `opened`."""
    descriptor = os.open(name, _FILE, dir_fd=at)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", name)
    with open(descriptor, "rb") as content:  # noqa: PTH123  a descriptor
        if found.st_nlink > 1 and not links.all_ours(found):
            raise OSError(errno.EPERM, "it is a hard link to a file outside the run's folders", name)
        yield content
