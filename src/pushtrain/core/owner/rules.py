"""The owner's rules: who may run what on this machine, how well it is locked in, and how much it may use.

The table `[rules]` of `settings.toml`. Every rule has a safe default; what a rule demands and this machine
cannot enforce is refused, never ignored. A rule is called by its place in the file: `rules.limits.time`.
`core.owner.ruling` applies them to a run, `core.owner.explain` tells them in plain language, docs/rules.md is
the owner's page.
"""

from typing import Annotated, Final, Self

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from pushtrain.core.owner.lending import OwnerRules
from pushtrain.core.owner.lent import check_entry
from pushtrain.core.owner.outward import listed as data_host
from pushtrain.core.text.forms import Wrong
from pushtrain.core.text.patterns import PatternError, compiled
from pushtrain.core.text.units import Duration, Size
from pushtrain.core.values.isolation import Isolation, JobNetwork
from pushtrain.core.values.jobspec import MOST_PRIORITY
from pushtrain.core.values.names import store_problem
from pushtrain.core.values.value import Value

MIB: Final = 1024**2
GIB: Final = 1024**3


def _pattern(value: object) -> object:
    if isinstance(value, str):
        try:
            compiled(value)
        except PatternError as error:
            mend = "docs/pushtrain-toml.md#patterns lists the special characters."
            raise Wrong(f"is not a pattern: {error}", mend) from error
    return value


def _store(value: object) -> object:
    if isinstance(value, str) and (problem := store_problem(value)):
        raise Wrong(problem, "Write it like `s3://bucket/prefix` (also gs, az).")
    return value


def _text(value: object) -> object:
    """A host's number for a repository may be written as one."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _programs(value: object) -> object:
    """One program may be written without the outer list."""
    return (value,) if isinstance(value, list) and value and all(isinstance(v, str) for v in value) else value


Pattern = Annotated[str, BeforeValidator(_pattern)]
"""A pattern as in `pushtrain.toml`'s triggers: GitHub Actions' filter patterns."""
Argv = Annotated[tuple[str, ...], Field(min_length=1)]
"""A program and its arguments; no shell."""
StoreUrl = Annotated[str, BeforeValidator(_store)]
HostId = Annotated[str, BeforeValidator(_text), StringConstraints(pattern=r"^[0-9]{0,19}$")]
Programs = Annotated[tuple[Argv, ...], BeforeValidator(_programs)]


class Allow(Value):
    """One entry of `[[rules.allow]]`: a run is allowed where one entry allows all of it."""

    repository: Pattern = "**"
    """Which repositories, by a pattern of `host/path`; `**`: all that are served here."""
    id: HostId = ""
    """The number that the Git host has for the repository. The host is asked before anything is run, so that
    a repository which took over the name of a renamed or deleted one is refused. Empty: not asked."""
    branches: tuple[Pattern, ...] = ("**",)
    """Which branches, by patterns as in `pushtrain.toml`."""
    tags: tuple[Pattern, ...] = ("**",)
    """Which tags, likewise."""
    senders: tuple[str, ...] = ()
    """Whose commands: names or fingerprints of `authorized_keys`; `owner` is this executor's own key. Empty:
    every key that is authorised."""
    pull_requests: bool = False
    """Whether heads of pull and merge requests may run, as long as a branch of the repository holds the
    commit."""
    forks: bool = False
    """Whether they may run when only a fork holds the commit: then anybody's code runs here."""

    @model_validator(mode="after")
    def _forks_come_by_pull_requests(self) -> Self:
        if self.forks and not self.pull_requests:
            mend = "Write `pull_requests = true` too, or leave `forks` out."
            raise Wrong("allows forks, whose commits come by pull requests, and no pull requests", mend)
        return self


def _host(entry: str) -> str:
    data_host(entry)
    return entry


DataHost = Annotated[str, AfterValidator(_host)]
Lent = Annotated[str, AfterValidator(check_entry)]


class Limits(Value):
    """What one attempt may use at most, and all of them in a day."""

    time: Duration = Field(default=24 * 3600, gt=0)
    """Seconds that a training may last; also what a job gets that asks for no `timeout`, and the most that
    its `setup` may take. A job that asks for more is refused."""
    memory: Size = Field(default=0, ge=0)
    """Bytes of memory, all processes together; 0: all of the machine's but a tenth, and 1 GiB at least. A job
    that asks for more is refused."""
    disk: Size = Field(default=100 * GIB, ge=0)
    """Bytes that an attempt may write below its own folders."""
    processes: int = Field(default=4096, ge=16)
    """Processes and threads at once."""
    files: int = Field(default=1_000_000, ge=1)
    """Files of one commit, those of its submodules included; a commit with more is refused before any of it
    is written."""
    repository: Size = Field(default=10 * GIB, ge=MIB)
    """Bytes that one fetch of a repository may bring, and that the files of one commit may come to."""
    log: Size = Field(default=64 * MIB, ge=MIB)
    """Bytes of a log that are kept, half from its head and half from its tail; the rest is let go and
    counted."""
    gpu_idle: Duration = Field(default=0, ge=0)
    """Seconds without a break for which a run may compute nothing on a GPU that it holds; then it is ended
    with the reason `idle`. 0: it is only told."""
    downloads_per_day: Size = Field(default=0, ge=0)
    """Bytes that data, git and environments of all runs may bring in from midnight to midnight UTC; 0: no
    limit. A run that would exceed them waits for the next day."""
    data: Size = Field(default=0, ge=0)
    """Bytes of data that one run may bring in, and again as many that may come out of its archives; 0: as
    many as `disk`."""
    data_files: int = Field(default=2_000_000, ge=1)
    """Files in one archive, or in one folder's manifest."""
    gpu_hours_per_day: float = Field(default=0, ge=0)
    """GPU-hours that one person (a sender's key) may use from midnight to midnight UTC; 0: no limit. What
    would begin beyond them waits for the next day; what runs goes on."""
    priority: int = Field(default=10, ge=0, le=MOST_PRIORITY)
    """The highest `priority` of a job that counts here; each step is one hour earlier in the queue."""
    data_ratio: int = Field(default=1000, ge=1)
    """Bytes that may come out of each packed byte of an archive that unpacks to more than 1 GiB."""


class Hooks(Value):
    """Programs of the owner's, run as the executor's user and outside every sandbox."""

    before: Programs = ()
    """Run before an attempt's code is looked at; one that fails refuses the run."""
    after: Programs = ()
    """Run when an attempt has ended, whichever way."""
    timeout: Duration = Field(default=60, gt=0, le=3600)
    """Seconds that each of them may take; then it is ended and has failed."""


class Rules(Value):
    """What the owner allows."""

    allow: tuple[Allow, ...] = ()
    """What may run, as entries of which one must allow all of a run. None: every repository that is served
    here, every branch and tag, every authorised key; no pull requests, no forks."""
    committed_jobs: bool = False
    """Whether a job must stand in the commit's own `pushtrain.toml` as it was sent, word for word; else a
    sender's key may run any command."""
    require_signed_commits: bool = False
    """Whether the commit must carry the signature of a signer that you list. The job must then be the
    commit's own, as with `committed_jobs`."""
    allowed_signers: str = ""
    """For `require_signed_commits`: a file of SSH keys, in the form that ssh-keygen calls allowed signers."""
    gpg_keyring: str = ""
    """For `require_signed_commits`: a file of GPG public keys, as `gpg --export` writes it."""
    min_isolation: Isolation = Isolation.SANDBOX
    """The weakest level that a job may run at here; a machine that reaches none so strong runs nothing."""
    network: JobNetwork = JobNetwork.INTERNET
    """What jobs may reach over the network."""
    allow_data_hosts: tuple[DataHost, ...] = ()
    """Data servers beyond the public internet that jobs' `data` may be fetched from: `nas.lan:9000`,
    `10.0.0.5:9000`, `10.0.0.0/24:9000`, `[fd00::5]:9000`; without a port 80 and 443."""
    data_credentials: tuple[Lent, ...] = ()
    """Where data is fetched with this machine's own credentials, by the start of its URL: `s3://lab-data`,
    `gs://lab/public`, `hf://datasets/lab`, `hf://lab/model`; `s3://` is all of a kind. All else is fetched as
    everybody may."""
    results_branches: tuple[Pattern, ...] = ()
    """Branches that results may be committed to beside `pushtrain/results` and the pushed one: your Git
    credential pushes them, which may have more rights than the sender's. Patterns, as in `pushtrain.toml`."""
    artifact_urls: tuple[StoreUrl, ...] = ()
    """Stores that large result files may be uploaded to with your credentials: `s3://bucket/prefix` and
    everything below it. None: nowhere."""
    submodules: tuple[Pattern, ...] = ()
    """Repositories that may be fetched as submodules with your credentials, by patterns of `host/path`.
    Others are fetched as a stranger would: public ones, over https."""
    limits: Limits = Limits()
    hooks: Hooks = Hooks()
    owner: OwnerRules = OwnerRules()

    @model_validator(mode="after")
    def _signers_are_listed_and_asked_for(self) -> Self:
        listed = self.allowed_signers or self.gpg_keyring
        if self.require_signed_commits and not listed:
            mend = "Name a file of their keys: `allowed_signers` (SSH), `gpg_keyring` (GPG), or both."
            raise Wrong("demands signed commits and lists no signer", mend)
        if listed and not self.require_signed_commits:
            mend = "Write `require_signed_commits = true`, or leave the list out."
            raise Wrong("lists signers and does not demand signed commits", mend)
        return self

    @property
    def entries(self) -> tuple[Allow, ...]:
        """The entries in force; the one that stands for none where none is written."""
        return self.allow or (Allow(),)
