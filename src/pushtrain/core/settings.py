"""What an owner or a borrower may set, with the defaults and the reasons.

Read from `settings.toml` in the state folder, then from the environment (`PUSHTRAIN_EXECUTOR_SLOTS`,
`PUSHTRAIN_SENDER_POLL_SECONDS`), then from flags; the last one wins. `docs/settings.md` lists every field.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from pushtrain.core.owner.rules import MIB, Pattern, Rules
from pushtrain.core.text.forms import Wrong
from pushtrain.core.text.units import Duration, Size
from pushtrain.core.values.secretname import SecretName
from pushtrain.core.values.value import RepositoryKey, Value

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
SshTarget = Annotated[
    str,
    StringConstraints(
        pattern=r"^$|^(ssh://)?([A-Za-z0-9_][A-Za-z0-9_.+-]*@)?[A-Za-z0-9_\[][A-Za-z0-9_.:%\[\]-]*$"
    ),
]
"""What `ssh` takes as its destination; never an option, never anything that a shell would read."""

SshListen = Annotated[
    str, StringConstraints(pattern=r"^$|^(([A-Za-z0-9_.*-]+|\[[0-9A-Fa-f:]+\]):)?[0-9]{1,5}$")
]


class Repository(Value):
    """A repository that this machine serves or watches."""

    key: RepositoryKey
    """`host/path`; what signed commands name."""
    remote: str
    """Where git fetches and pushes; never holds a password."""
    roster: str | None = None
    """Where this repository's roster lies; None: where the setting `roster` says."""


class ExecutorAddress(Value):
    """An executor that the sender may use: its address, and the key that it must prove."""

    url: str
    public_key: str


class ExecutorSettings(Value):
    """The lending machine."""

    name: Name = "executor"
    """Shown on reports and commits. Never the host name unless the owner says so."""
    host: str = "127.0.0.1"
    """Address the HTTP server listens on."""
    port: int = Field(default=8421, ge=0, le=65535)
    """Port the HTTP server listens on; 0: any free one."""
    tunnel: Literal["auto", "none", "ngrok", "ssh", "static"] = "auto"
    """How callers elsewhere reach this machine. `auto`: the tunnel that one of the next settings belongs to,
    else `ngrok` where its authtoken is found, else `none`; `pushtrain up` takes no ngrok unasked."""
    domain: str = ""
    """For `ngrok`: a domain of yours there; empty: the one that ngrok gives."""
    public_url: str = ""
    """For `static`: the URL that somebody else forwards to this port. For `ssh`: the URL at which your server
    shows the forwarded port, with `{port}` where its number belongs; empty: the server prints the URL."""
    ssh_target: SshTarget = ""
    """For `ssh`: the server, as the OpenSSH client takes it: `user@host`, `ssh://user@host:2222`, or a `Host`
    of `~/.ssh/config`."""
    ssh_remote: SshListen = ""
    """For `ssh`: where the server listens, `PORT` or `ADDRESS:PORT`; empty: any free port of your own server
    (as 0), port 80 of a service that prints a URL."""
    ssh_pattern: str = (
        r"(?:tunneled with tls termination, |Forwarding HTTP traffic from )(https://[A-Za-z0-9.-]+)"
    )
    """For `ssh` without `public_url`: the regular expression that finds the URL in what the server prints."""
    ssh_config: str = ""
    """For `ssh`: a configuration file of the OpenSSH client; empty: the user's own."""
    ngrok_server: str = ""
    """For `ngrok`: `HOST:PORT` of a custom agent ingress; empty: ngrok's own."""
    ngrok_root_cas: str = ""
    """For `ngrok`: a PEM file of authorities to trust, or `host` for this machine's; empty: ngrok's own."""
    poll: bool = False
    """Whether this machine watches its repositories itself and starts their runs here: it needs no tunnel and
    no other sender. A repository should have one sender, so only one machine may do this for it."""
    publish_host_name: bool = False
    """Whether the card in the roster carries this machine's host name where `name` is not set."""
    publish_address: bool = False
    """Whether the card in the roster tells the address that the server listens on, if it is not loopback."""
    publish_gpu_uuids: bool = False
    """Whether the card in the roster tells the GPUs' UUIDs and driver; else index, name and memory alone."""
    slots: int = Field(default=1, ge=1, le=1024)
    """Runs at once that ask for no GPU; on a machine with GPUs at least as many as there are GPUs."""
    labels: tuple[str, ...] = ()
    """Words that jobs may ask for."""
    prefer: int = Field(default=0, ge=-100, le=100)
    """Where several executors could start a run, senders take the one with the highest number, before they
    look at speed and load: 10 for the fast machine, -10 for the one that should only help out."""
    mounts: dict[Name, str] = Field(default_factory=dict)
    """Folders lent read-only to jobs, by name."""
    environments: dict[Name, str] = Field(default_factory=dict)
    """Ready-made environments (folders with `bin/`), by name."""
    grace: Duration = Field(default=10, ge=0)
    """Seconds between the polite signal and the kill, on timeout and cancel."""
    published_log_limit: Size = Field(default=MIB, ge=4096)
    """Bytes of a log in the results commit, head and tail."""
    git_file_limit: Size = Field(default=5 * MIB, ge=0)
    """A larger result file does not go into Git."""
    git_run_limit: Size = Field(default=20 * MIB, ge=0)
    """Result files of one run in Git, in all."""
    keep_artifacts_days: float = Field(default=30, ge=0)
    """Days that the executor keeps what did not go into Git."""
    keep_runs_days: float = Field(default=90, ge=0)
    """Days after its end in which this machine knows a run's history; then only that it was, and how it
    ended, and its results are on their branch. Never less than `keep_artifacts_days`."""
    disk_budget: Size = Field(default=0, ge=0)
    """Bytes that the state folder may take; beyond them what was used least is collected (docs/disk.md). 0: a
    half of its file system."""
    disk_floor: Size = Field(default=5 * 1024 * MIB, ge=0)
    """Bytes that stay free on its file system, whoever fills it: with less, what was used least is collected
    before each run."""
    queue_limit: int = Field(default=10_000, ge=1)
    """Runs that may wait; one more is answered 429."""
    status_api: str = "https://api.github.com"
    """The GitHub API that is told how runs stand, where there is a token for it; for GitHub Enterprise Server
    `https://HOST/api/v3`."""


class SenderSettings(Value):
    """Whoever turns pushes into commands."""

    host: str = "127.0.0.1"
    """Address the webhook server listens on."""
    port: int = Field(default=8422, ge=0, le=65535)
    """Port the webhook server listens on; 0: any free one."""
    poll_seconds: Duration = Field(default=60, gt=0)
    """How often every watched repository's branches are compared with the runs that exist."""
    lost_after: Duration = Field(default=3600, ge=60)
    """Seconds after which a run that a silent executor may have may start elsewhere, as a duplicate."""
    executors: tuple[ExecutorAddress, ...] = ()
    """Executors beside those that a roster lists with a trusted key, and the one of the same state folder."""
    allow_http: bool = False
    """Whether an executor beyond this machine may be reached by plain http, as its card in a roster says.
    Commands and answers stay signed, but anybody on the way can read them."""


class OwnerSecret(Value):
    """One entry of `[[secrets]]`: a value that the owner keeps for jobs, in a file or in the keyring."""

    name: SecretName
    """The environment variable that it becomes."""
    file: str = ""
    """The file that holds it, which only its user may read; one line break at its end does not count."""
    keyring: str = ""
    """The service under which the keyring has it, with `name` for the user: `keyring set SERVICE NAME`."""
    repositories: tuple[Pattern, ...] = Field(min_length=1)
    """Which repositories may have it, by patterns of `host/path`."""
    jobs: tuple[Pattern, ...] = ("*",)
    """Which of their jobs may have it."""
    branches: tuple[Pattern, ...] = ("**",)
    """Which of their branches may have it; of a tag the full name, `refs/tags/v1`, is matched."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if bool(self.file) == bool(self.keyring):
            mend = f'Write for example `file = "~/.config/pushtrain/{self.name.lower()}"`.'
            raise Wrong("names not exactly one of `file` and `keyring`", mend)
        return self


class Settings(Value):
    """`settings.toml`."""

    repositories: tuple[Repository, ...] = ()
    """Repositories that this machine serves and watches; the only ones."""
    roster: str = "pushtrain/config:config.json"
    """Where executors publish their cards and senders look for them: `BRANCH:PATH` in each repository, or one
    repository for many, `OWNER/NAME` on the same host, a key or a remote, with `#BRANCH:PATH` behind it where
    it is not `pushtrain/config:config.json`. Empty: nowhere."""
    rules: Rules = Rules()
    """What may run here, and how: docs/rules.md."""
    secrets: tuple[OwnerSecret, ...] = ()
    """What the owner keeps for jobs: docs/secrets.md."""
    executor: ExecutorSettings = ExecutorSettings()
    sender: SenderSettings = SenderSettings()
