"""Values that an owner keeps for jobs: in files that only their user may read, or in the keyring."""

import importlib
import os
import stat
from pathlib import Path
from typing import Final

from pushtrain.core.errors import SecretError
from pushtrain.core.settings import OwnerSecret
from pushtrain.core.wire.secrets import MAX_VALUE, value_problem

_OTHERS: Final = 0o077


def read(secret: OwnerSecret) -> str:
    """The value, now.

    Raises:
        SecretError: It is not there, others could read it, or it cannot be a secret; tells no value.
    """
    value = _file(secret) if secret.file else _keyring(secret)
    if why := value_problem(value):
        raise SecretError(f"The owner's secret {secret.name} cannot be used: it {why}.")
    return value


def tidied(text: str) -> str:
    """What was meant by a text from a file or a pipe: one line loses the line break behind it.

    A text of several lines stays as it is: some keys are none without their last line break.
    """
    bare = text.removesuffix("\n").removesuffix("\r")
    return text if "\n" in bare else bare


def _file(secret: OwnerSecret) -> str:
    path = Path(secret.file).expanduser()
    if not path.is_absolute():
        raise SecretError(
            f"The owner's secret {secret.name} is in {secret.file!r}, which names no place.",
            mend="Write the file's whole path in settings.toml.",
        )
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            data = file.read(MAX_VALUE + 2)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SecretError(
            f"The owner's secret {secret.name} cannot be read from {path}: {why}.",
            mend="Put it there, or mend `[[secrets]]` in settings.toml.",
        ) from None
    mode = stat.S_IMODE(found.st_mode)
    if mode & _OTHERS or found.st_uid not in {0, os.geteuid()}:
        raise SecretError(
            f"The owner's secret {secret.name} is in {path}, which others can read (mode {mode:04o}).",
            mend=f"`chmod 600 {path}`",
        )
    return tidied(text)


def _keyring(secret: OwnerSecret) -> str:
    service = secret.keyring
    try:
        keyring = importlib.import_module("keyring")
    except ImportError as error:
        raise SecretError(
            f"The owner's secret {secret.name} is in the keyring, and the library for it is not installed.",
            mend="`pip install keyring`, or keep it in a file.",
        ) from error
    try:
        value: str | None = keyring.get_password(service, secret.name)
    except keyring.errors.KeyringError as error:
        raise SecretError(
            f"The owner's secret {secret.name} cannot be read: the keyring is locked or not there.",
            mend="Unlock it; a service without a desktop keeps secrets in files instead.",
        ) from error
    if not value:
        raise SecretError(
            f"The keyring has nothing for the owner's secret {secret.name}.",
            mend=f"`keyring set {service} {secret.name}`",
        )
    return value
