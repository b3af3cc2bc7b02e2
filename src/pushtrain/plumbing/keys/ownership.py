"""Whether a file that decides what may run here is in its owner's hands alone.

As sshd judges `authorized_keys`: it belongs to us or to root, and nobody else may write it. A group counts as
nobody else where it is the owner's private one, as Debian and Ubuntu make for each user.
"""

import grp
import os
import pwd
import stat
from pathlib import Path

from pushtrain.core.errors import ConfigError


def demand_own(path: Path, what: str) -> None:
    """Refuse a file that somebody else could have written; one that is not there is nobody's.

    Args:
        path: The file; a link is followed.
        what: What it is, for the error: `The settings file`.

    Raises:
        ConfigError: Others can write it; the mend is one command.
    """
    try:
        found = path.stat()
    except OSError:
        return
    if found.st_uid not in {0, os.geteuid()}:
        raise ConfigError(
            f"{what} {path} belongs to {_user(found.st_uid)}, who could change what may run here.",
            mend=f"`chown {_user(os.geteuid())} {path}`",
        )
    open_to = found.st_mode & stat.S_IWOTH or (
        found.st_mode & stat.S_IWGRP and not _private_group(found.st_uid, found.st_gid)
    )
    if open_to:
        mode = stat.S_IMODE(found.st_mode)
        raise ConfigError(
            f"{what} {path} can be written by others than its owner (mode {mode:04o}).",
            mend=f"`chmod go-w {path}`",
        )


def _private_group(user: int, group: int) -> bool:
    """Whether a group has nobody in it but this user."""
    try:
        owner, members = pwd.getpwuid(user), grp.getgrgid(group)
    except KeyError:
        return False
    if owner.pw_gid != group or set(members.gr_mem) - {owner.pw_name}:
        return False
    return not any(other.pw_gid == group and other.pw_uid != user for other in pwd.getpwall())


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
