"""What people paste when they ask for help holds no credential: reprs in tracebacks, settings' errors."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pushtrain.adapters.hosts.github_status import GitHubStatuses
from pushtrain.adapters.tunnels.authtoken import Found
from pushtrain.core.errors import PushtrainError
from pushtrain.core.settings import Repository
from pushtrain.core.text.redact import Mask
from pushtrain.executor.runs.vault import Given, Vault
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.git.command import Git
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.keys.sealing import seal_secret
from pushtrain.testing import REPOSITORY
from pushtrain.wiring.settings import load_settings

CANARY = "canary-9f+/Zq?8=Lm4"
REMOTE = Repository(key=REPOSITORY, remote="https://github.com/octo/hello")


@dataclass
class Holder:
    """A traceback of a test runner, or a debugger, prints values in values."""

    inner: object


def holders(folder: Path) -> list[object]:
    """Everything that holds a credential while it works."""
    return [
        Git(folder, REMOTE.remote, CANARY),
        Mirror(folder, REMOTE, token=CANARY),
        Mirror(folder, REMOTE, token=CANARY).git,
        GitHubStatuses("https://api.github.com", CANARY.replace("?", "")),
        Found(CANARY, "a test"),
        Given(CANARY, "a test"),
        Mask({"KEY": CANARY}),
        Vault(X25519PrivateKey.generate()),
        seal_secret(
            "KEY",
            CANARY,
            to=X25519PrivateKey.generate().public_key(),
            key=Ed25519PrivateKey.generate(),
            repository=REPOSITORY,
            job="*",
            branch="**",
            sealed_at=1,
        ),
    ]


def test_nothing_that_holds_a_credential_shows_it_when_it_is_printed(tmp_path: Path) -> None:
    mask = Mask({"KEY": CANARY, "token": CANARY.replace("?", "")})
    for holder in holders(tmp_path):
        for shown in (repr(holder), f"{holder}", repr(Holder(holder)), repr([holder])):
            assert mask.found(shown.encode()) == (), type(holder)


@pytest.mark.parametrize(
    "text",
    [
        f'[[secrets]]\nname = "{CANARY}"\nfile = "/x"\nrepositories = ["a/b"]\n',
        f'[[secrets]]\nname = "KEY"\nvalue = "{CANARY}"\nrepositories = ["a/b"]\n',
        f'[[secrets]]\nname = "KEY"\nfile = "/x"\nkeyring = "{CANARY}"\nrepositories = ["a/b"]\n',
        f'[[secrets]]\nname = "KEY"\nfile = ["{CANARY}"]\nrepositories = ["a/b"]\n',
        f'secrets = ["{CANARY}"]\n',
        f'secrets = "{CANARY}"\n',
        f'repositories = ["https://me:{CANARY}@github.com/octo/hello"]\n',
        f'repositories = ["https://{CANARY}\n',
    ],
)
def test_an_error_in_the_settings_does_not_repeat_a_secret_that_was_put_there(
    tmp_path: Path, text: str
) -> None:
    state = StateFolder(tmp_path).create()
    state.settings.write_text(text)
    with pytest.raises(PushtrainError) as raised:
        load_settings(state, environ={})
    assert "canary" not in str(raised.value)
