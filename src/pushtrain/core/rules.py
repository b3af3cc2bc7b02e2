"""The owner's rules: who may run what on this machine, how well it is locked in, and how much it may use.

The table `[rules]` of `settings.toml`. Every rule has a safe default; what a rule demands and this machine
cannot enforce is refused, never ignored. `pushtrain executor rules` tells what is in force.
"""

from pydantic import Field

from pushtrain.core.model import Isolation, JobNetwork, Value

GIB = 1024**3


class Limits(Value):
    """What one attempt may use at most."""

    memory: int = Field(default=0, ge=0)
    """Bytes of memory, all processes together; 0: all of the machine's but a tenth, and 1 GiB at least."""
    disk: int = Field(default=100 * GIB, ge=0)
    """Bytes that an attempt may write below its own folders."""
    processes: int = Field(default=4096, ge=16)
    """Processes and threads at once."""


class Rules(Value):
    """What the owner allows."""

    min_isolation: Isolation = Isolation.SANDBOX
    """The weakest level that a job may run at here; a machine that reaches none so strong runs nothing."""
    network: JobNetwork = JobNetwork.INTERNET
    """What jobs may reach over the network."""
    allow_data_hosts: tuple[str, ...] = ()
    """`HOST:PORT` of data servers beyond the public internet that jobs' `data` may be fetched from."""
    limits: Limits = Limits()
