"""What the owner says of when their machine is lent: the table `[rules.owner]` of `settings.toml`.

`core.owner.verdict` judges by it, docs/owners.md is the owner's page.
"""

from typing import Annotated, Final

from pydantic import AfterValidator, Field

from pushtrain.core.text.forms import Wrong
from pushtrain.core.text.hours import Window
from pushtrain.core.text.units import Duration, Size
from pushtrain.core.values.value import Value

MIB: Final = 1024**2
GIB: Final = 1024**3
UNTOUCHED: Final = 600
"""Seconds for `idle` where the driver names no programs and the owner has said neither that nor `hours`."""
_SLOWEST: Final = 64 * 1024


def _fast_enough(value: int) -> int:
    if 0 < value < _SLOWEST:
        raise Wrong("is less than 64 KiB a second", "Write 0 for no limit, or a larger one.")
    return value


Bandwidth = Annotated[Size, AfterValidator(_fast_enough)]
"""Bytes a second; below the least of them servers hang up, and a run could not be stopped in time."""


class OwnerRules(Value):
    """When the owner's machine is lent; `[rules.owner]`."""

    hours: tuple[Window, ...] = ()
    """Windows of the week in local time in which this machine is lent, such as `Mon-Fri 18:00-08:00` or
    `Sat,Sun`; none: always."""
    idle: Duration = Field(default=0, ge=0)
    """Seconds that keyboard and mouse must have been untouched; 0: they do not count, unless the GPUs' driver
    names no programs and no `hours` are stated: then it is ten minutes. A machine that cannot tell is not
    lent, unless `hours` are stated."""
    full_screen: bool = True
    """Whether a program that fills the screen counts as the owner, as does GameMode."""
    gpu_memory: Size = Field(default=512 * MIB, ge=0)
    """Bytes of a GPU's memory that the owner's programs may hold without counting as its user; desktops hold
    a few hundred MiB. Beyond it the card is the owner's, also at 0 % utilisation."""
    gpu_utilization: int = Field(default=25, ge=1, le=100)
    """Percent of a GPU that the owner's programs may keep busy without counting as its user."""
    reserve: Size = Field(default=GIB, ge=0)
    """Bytes of a shared GPU's memory that stay free while the owner uses it: below it what runs there is
    ended at once."""
    display: bool = True
    """Whether a GPU with a lit display is lent."""
    load: float = Field(default=0, ge=0)
    """Processors that the owner's own work may keep busy; beyond it nothing new starts. 0: it does not
    count."""
    battery: bool = False
    """Whether the machine is lent while it runs on its battery."""
    temperature: int = Field(default=90, ge=40, le=120)
    """Degrees Celsius of a GPU beyond which nothing new starts on it."""
    grace: Duration = Field(default=30, ge=0, le=3600)
    """Seconds that a job has to write its checkpoint when the owner is back."""
    settle: Duration = Field(default=60, ge=0)
    """Seconds that nothing may have been seen of the owner before a card is lent again."""
    kwh_per_day: float = Field(default=0, ge=0)
    """Kilowatt-hours that runs may use from midnight to midnight UTC; 0: no limit."""
    slurm: bool = True
    """Whether jobs of a Slurm node on this machine count as the owner's work."""
    nice: int = Field(default=10, ge=0, le=19)
    """How far preparing, jobs and publishing stand back for the owner's programs where processor and disk are
    short: their `nice` value."""
    bandwidth: Bandwidth = Field(default=0, ge=0)
    """Bytes a second, 64 KiB at least, that the data of all runs together may be downloaded with, and that
    results and checkpoints may go to a store with; 0: no limit."""
    quiet: tuple[Window, ...] = ()
    """Windows of the week in local time in which nothing large is downloaded for runs, and neither results
    nor checkpoints are brought away; what has its data goes on."""
