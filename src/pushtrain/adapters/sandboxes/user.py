"""`user`: a uid of its own for each repository's jobs; for an executor of root's where nothing better works.

The kernel then keeps a job from what others may not read, signal or trace, and a filter of system calls from
the rest of what a job has no use for. What everybody may read it can read, other processes it can see, and it
has the machine's network. Its folders are given to that uid before each command; whatever lies on the way to
them must let others pass, and the state folder is made so, its private files stay root's alone.
"""

import os
import stat
from pathlib import Path
from typing import Final

from pushtrain.adapters.sandboxes import Ground, demand_network
from pushtrain.core.errors import ConfigError
from pushtrain.core.values.isolation import Isolation, JobNetwork
from pushtrain.plumbing.disk import shortcut
from pushtrain.plumbing.isolation import jobuser, seccomp
from pushtrain.ports import Cage, Confinement, Enclosure

_HARD_LINKS: Final = Path("/proc/sys/fs/protected_hardlinks")
_MEND: Final = "`sudo sysctl -w fs.protected_hardlinks=1`"


class OwnUser:
    """Another uid.

    Args:
        ground: What may be known of the machine.
    """

    level = Isolation.USER

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def missing(self) -> tuple[str, str]:
        """Whether we may become somebody else."""
        if os.geteuid():
            return "only an executor that root runs can give its jobs another user", ""
        if _HARD_LINKS.read_text().strip() != "1":
            return "a job could have others' files given to it by hard links", _MEND
        return seccomp.missing()

    def explain(self, complaint: str) -> tuple[str, str]:
        """Usually the job's Python lies where only root passes."""
        return f"nothing can be started in it: {complaint.strip()}", ""

    def enclose(self, cage: Cage) -> Enclosure:
        """Give the cage's folders to the job's uid.

        Raises:
            ConfigError: That uid cannot get there; or the cage restricts the network.
            OSError: A folder cannot be given away.
        """
        demand_network(self.level, cage, JobNetwork.FULL)
        self._keep_private()
        for path in (*cage.writable, *(path for path in cage.readable if path.exists())):
            self._open_way(path)
        uid = jobuser.settle(cage)
        tmp = shortcut.to(cage.tmp) if cage.tmp else None
        confinement = Confinement(user=(uid, uid), drop=True, filter=str(self._ground.filter(alone=False)))
        return Enclosure(env=jobuser.NAMES | ({"TMPDIR": str(tmp)} if tmp else {}), confinement=confinement)

    def _open_way(self, path: Path) -> None:
        """Let others pass on the way to a path; what is not ours must do so already."""
        state = self._ground.folder.parent
        for folder in reversed(path.resolve().parents):
            mode = stat.S_IMODE(folder.stat().st_mode)
            if mode & stat.S_IXOTH:
                continue
            if not folder.is_relative_to(state):
                raise ConfigError(
                    f"A job's own user cannot pass through {folder} to {path}.",
                    mend="Keep the state folder elsewhere, for example `--state /var/lib/pushtrain`.",
                )
            folder.chmod(mode | stat.S_IXOTH)

    def _keep_private(self) -> None:
        """Before others may pass through the state folder, take from them what lies in it, and what is new.

        A folder that they may pass through and no more was opened by us, for jobs that may be running.
        """
        for entry in self._ground.folder.parent.iterdir():
            found = entry.lstat()
            opened = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_IRWXO == stat.S_IXOTH
            if not opened and found.st_mode & stat.S_IRWXO and not stat.S_ISLNK(found.st_mode):
                entry.chmod(stat.S_IMODE(found.st_mode) & ~stat.S_IRWXO)
