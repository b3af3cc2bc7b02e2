"""Who signed a commit, by the keys that the owner lists and no others.

git verifies, in the mirror that only we write, and is told on its command line which programs and which keys
to use: what the user's git, GPG or SSH configuration says does not count, and the repository's own is never
read. GPG keys come from a folder that holds nothing but the owner's list.
"""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pushtrain.core.errors import ConfigError
from pushtrain.plumbing.git.command import Git
from pushtrain.plumbing.git.remotes import check_commit
from pushtrain.plumbing.keys.ownership import demand_own
from pushtrain.plumbing.programs import process
from pushtrain.ports import Stop

_SECONDS: Final = 60.0
_SSH_SIGNATURES: Final = (2, 34)
"""The first git that verifies SSH signatures."""
_GPG_CONFIG: Final = "trust-model always\nno-autostart\ndisable-dirmngr\nno-auto-key-retrieve\n"
"""Every key of the list counts, and nothing else is asked: no agent, no network, no web of trust."""
_GOOD: Final = re.compile(
    r'Good "git" signature for (?P<ssh>\S+) with |\[GNUPG:\] GOODSIG [0-9A-F]+ (?P<gpg>.+)'
)
_SEEN: Final = (
    (
        re.compile(r"No principal matched|\[GNUPG:\] (ERRSIG|NO_PUBKEY)"),
        "its signer is on no list of the owner",
    ),
    (re.compile(r"\[GNUPG:\] (EXPSIG|EXPKEYSIG)"), "its signer's key has expired"),
    (re.compile(r"\[GNUPG:\] REVKEYSIG"), "its signer's key was revoked"),
    (re.compile(r"BADSIG|Could not verify signature|incorrect signature"), "its signature is not valid"),
)


@dataclass(frozen=True, slots=True)
class Signature:
    """What a commit's signature is worth."""

    signer: str = ""
    """Who signed, as the owner's list names them; empty: nobody who is on it."""
    why: str = ""
    """What is wrong, to follow `the commit`; empty: nothing."""


class Signers:
    """The owner's list of those whose signatures count.

    Args:
        allowed: A file in ssh-keygen's form of allowed signers; None: no SSH keys.
        keyring: A file of exported GPG public keys; None: none.
        home: A folder of our own, for GPG's use.
    """

    def __init__(self, allowed: Path | None, keyring: Path | None, home: Path) -> None:
        self._allowed = allowed
        self._keyring = keyring
        self._home = home

    def check(self) -> None:
        """See that the list can be used.

        Raises:
            ConfigError: A file is not there, is not the owner's alone, or holds no key; a program is missing.
        """
        self._read()
        if self._allowed is not None:
            _need("ssh-keygen", "openssh-client", "allowed_signers")
            _check_git()
        if self._keyring is not None:
            _need("gpg", "gnupg", "gpg_keyring")
            self._gpg_home(self._keyring)

    def of(self, git: Git, commit: str, *, stop: Stop | None = None) -> Signature:
        """Whose signature a commit of the mirror carries.

        Raises:
            ConfigError: The list cannot be used (any more).
            GitError: git could not look.
        """
        self._read()
        home = self._home / "none" if self._keyring is None else self._gpg_home(self._keyring)
        done = git.run(
            "verify-commit", "--raw", check_commit(commit),
            config=(
                "gpg.program=gpg",
                "gpg.ssh.program=ssh-keygen",
                "gpg.x509.program=/bin/false",
                "gpg.minTrustLevel=fully",
                f"gpg.ssh.allowedSignersFile={self._allowed or os.devnull}",
            ),
            env={"GNUPGHOME": str(home)}, stop=stop, timeout=_SECONDS, ok=(0, 1),
            doing=f"verify the signature of {commit[:12]}",
        )  # fmt: skip
        said = done.complaint
        good = _GOOD.search(said)
        if done.code == 0 and good:
            return Signature(signer=(good["ssh"] or good["gpg"]).strip())
        if not said:
            return Signature(why="it is not signed")
        return Signature(
            why=next((why for form, why in _SEEN if form.search(said)), "its signature does not hold")
        )

    def _read(self) -> None:
        for path, rule in ((self._allowed, "allowed_signers"), (self._keyring, "gpg_keyring")):
            if path is not None:
                _readable(path, rule)

    def _gpg_home(self, keyring: Path) -> Path:
        """A GPG home that holds exactly the list, made anew when the list has changed."""
        content = keyring.read_bytes()
        home = self._home / hashlib.sha256(content + _GPG_CONFIG.encode()).hexdigest()[:32]
        if home.is_dir():
            return home
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._home / f".{secrets.token_hex(8)}"
        fresh.mkdir(mode=0o700)
        try:
            (fresh / "gpg.conf").write_text(_GPG_CONFIG)
            argv = ("gpg", "--homedir", fresh, "--batch", "--quiet", "--no-tty", "--import")
            process.run(argv, input=content, timeout=_SECONDS)
            if not _public_keys(fresh):  # its exit code also tells that there is no agent
                raise ConfigError(
                    f"`rules.gpg_keyring` is {keyring}, which holds no GPG public key.",
                    mend="Write one with `gpg --export KEY > FILE`.",
                )
            with contextlib.suppress(OSError):  # another thread was first, with the same list
                fresh.rename(home)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return home


def _public_keys(home: Path) -> bool:
    argv = ("gpg", "--homedir", home, "--batch", "--with-colons", "--list-keys")
    return any(line.startswith("pub:") for line in process.run(argv, timeout=_SECONDS).text.splitlines())


def _readable(path: Path, rule: str) -> None:
    demand_own(path, f"The list of `rules.{rule}`,")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        why = error.strerror or error
        raise ConfigError(
            f"`rules.{rule}` is {path}, which cannot be read: {why}.", mend="Write the list there."
        ) from error
    if empty:
        raise ConfigError(f"`rules.{rule}` is {path}, which is empty.", mend="Write the list there.")


def _need(program: str, package: str, rule: str) -> None:
    if shutil.which(program) is None:
        raise ConfigError(
            f"`rules.{rule}` needs the program {program}, which is not installed.",
            mend=f"`apt install {package}`",
        )


def _check_git() -> None:
    words = process.run(("git", "--version"), timeout=_SECONDS).text.split()
    version = tuple(int(part) for part in (words or [""])[2:3][0].split(".")[:2] if part.isdigit())
    if version < _SSH_SIGNATURES:
        raise ConfigError(
            "`rules.allowed_signers` needs git 2.34 or later.",
            mend="Install a newer git, or use `gpg_keyring`.",
        )
