"""A `/etc` for jobs: what programs need to run, and nothing that tells of the machine's people or secrets.

It is a copy of a short list, with users, hosts and name services of its own, made once and again when its
originals change. Only what everybody may read is copied, so that an executor of root's gives nothing away
either; links are copied as links, and lead nowhere where their target is not shown.
"""

import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pushtrain.plumbing.disk.trees import remove_tree
from pushtrain.plumbing.isolation.keeper import RESOLVER

HOST: Final = "pushtrain"
"""What the machine is called inside."""
USER: Final = 1000
"""Who a job is inside, whoever it is outside."""

COPIED: Final = (
    "OpenCL",
    "alternatives",
    "bash.bashrc",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "egl",
    "fonts",
    "gai.conf",
    "glvnd",
    "host.conf",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "locale.conf",
    "localtime",
    "magic",
    "magic.mime",
    "matplotlibrc",
    "mime.types",
    "os-release",
    "perl",
    "pki/ca-trust",
    "pki/tls/cert.pem",
    "pki/tls/certs",
    "pki/tls/openssl.cnf",
    "profile",
    "protocols",
    "python3",
    "python3.10",
    "python3.11",
    "python3.12",
    "python3.13",
    "python3.14",
    "rpc",
    "services",
    "ssl/cert.pem",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
    "vulkan",
)
"""What is copied where there is such a thing: paths of libraries, certificates, locales, names of ports."""

RESOLV: Final = "resolv.conf"
"""Names are looked up by the uplink; a sandbox on the machine's own network shows the machine's."""

_WRITTEN: Final = {
    RESOLV: f"nameserver {RESOLVER}\n",
    "hostname": f"{HOST}\n",
    "hosts": f"127.0.0.1\tlocalhost {HOST}\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    "passwd": f"root:x:0:0:root:/:/usr/sbin/nologin\njob:x:{USER}:{USER}:job:/tmp:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
    "group": f"root:x:0:\njob:x:{USER}:\nnogroup:x:65534:\n",
}


def skeleton(below: Path, *, source: Path = Path("/etc")) -> Path:
    """A `/etc` for jobs, in a folder that is made in `below` when there is none, or none that is current.

    Args:
        below: A folder of ours.
        source: What is copied from.

    Raises:
        OSError: It cannot be made.
    """
    folder = below / _state_of(source)
    if folder.is_dir():
        return folder
    below.mkdir(parents=True, exist_ok=True)
    fresh = below / f".{folder.name}.{os.getpid()}"
    remove_tree(fresh)
    fresh.mkdir()
    for name in COPIED:
        _copy(source / name, fresh / name)
    for name, text in _WRITTEN.items():
        (fresh / name).write_text(text)
    with contextlib.suppress(OSError):  # somebody was quicker
        fresh.rename(folder)
    remove_tree(fresh)
    return folder


def remove_old(below: Path) -> None:
    """Remove what no new job gets; called while none runs that might have it."""
    current = _state_of(Path("/etc"))
    for found in below.glob("*"):
        if found.name != current:
            remove_tree(found)


def _state_of(source: Path) -> str:
    """A name for what the originals are like now."""
    digest = hashlib.sha256(repr((COPIED, sorted(_WRITTEN.items()))).encode())
    for name in COPIED:
        with contextlib.suppress(OSError):
            found = (source / name).stat()
            digest.update(f"{name} {found.st_ino} {found.st_mtime_ns} {found.st_size}\n".encode())
    return digest.hexdigest()[:16]


def _copy(source: Path, target: Path) -> None:
    """Copy a file, a link or a folder, as far as everybody may read it."""
    with contextlib.suppress(OSError):
        found = source.lstat()
        if stat.S_ISDIR(found.st_mode):
            if found.st_mode & stat.S_IROTH:
                target.mkdir(parents=True, exist_ok=True)
                for entry in _entries(source):
                    _copy(source / entry, target / entry)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if stat.S_ISLNK(found.st_mode):
            target.symlink_to(source.readlink())
        elif stat.S_ISREG(found.st_mode) and found.st_mode & stat.S_IROTH:
            shutil.copyfile(source, target)
            target.chmod(0o644)


def _entries(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as found:
        yield from sorted(entry.name for entry in found)
