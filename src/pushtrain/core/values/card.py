"""What an executor tells of itself: its card, its GPUs, and what is free."""

from pushtrain.core.values.value import Value


class Gpu(Value):
    """One GPU of this machine."""

    uuid: str
    index: int
    name: str
    memory: int
    """Bytes in all."""
    driver: str = ""
    capability: str = ""
    """CUDA's compute capability, for example `8.9`."""
    display: bool = False
    """Whether a display was attached and lit when the executor started."""
    trouble: str = ""
    """Why nobody gets it until it is mended: `fallen-off`, `memory-errors`; empty: it is in order."""
    slice: int | None = None
    """Its number among the slices (MIG) that its card is cut into; None: it is a whole card."""

    @property
    def number(self) -> str:
        """What people call it: `0`, or `0.2` for a slice of GPU 0."""
        return str(self.index) if self.slice is None else f"{self.index}.{self.slice}"


class ExecutorCard(Value):
    """How a sender reaches and recognises one executor; its entry in `config.json`."""

    name: str
    public_url: str
    """Empty: it takes no calls and acts by itself (`--tunnel none`)."""
    ip: str = "127.0.0.1"
    """Where the local server listens. Informative; never dialled."""
    port: int = 0
    """Where the local server listens. Informative; never dialled."""
    timestamp: float
    """When this card was written."""
    public_key: str
    """`ed25519:` and the base64 of 32 bytes."""
    sealing_key: str = ""
    """`x25519:` and the base64 of 32 bytes: what secrets for it are sealed to. Empty: it takes none."""
    succession: tuple[str, ...] = ()
    """What its former keys said of the next one, oldest first (`core.wire.succession`); empty: none."""
    labels: tuple[str, ...] = ()
    prefer: int = 0
    """What its owner wishes: where several executors could start a run, the one with the highest number is
    asked for it."""
    mounts: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    repositories: tuple[str, ...] = ()
    isolation: str = "none"
    """The level that its jobs run at."""
    network: str = "full"
    """What its jobs reach over the network. Empty: the level cannot enforce what the owner allows, and no job
    runs but one that asks for less (docs/network.md)."""
    online: bool = True
    """False after a clean stop."""
    draining: bool = False
    """Whether it finishes what runs and takes nothing new."""
    sequence: int = 0
    """Grows with every card that this executor writes; an older one is never believed again."""
    expires: float = 0
    """When the card is no longer believed; 0: it was never published."""
    signature: str = ""
    """Base64 Ed25519 over the card without this field; empty: it was never published."""


class FreeGpu(Value):
    """What is free of one GPU."""

    memory: int
    """Bytes that it has in all."""
    whole: bool = True
    """Whether nobody uses it: a run may have it alone."""
    room: int = 0
    """Bytes that a run may have that shares it."""
    capability: str = ""
    slice: bool = False
    """Whether it is a MIG slice: a run of several GPUs cannot use it."""


class Pace(Value):
    """How long a job takes at an executor."""

    job: str
    """`core.policy.pace_key` of repository and job."""
    seconds: float
    """The median of its last runs."""


class Capacity(Value):
    """What a run that came now would find: what is free, and not spoken for by a run that waits."""

    slots: int
    free_slots: int
    free_gpus: int
    """GPUs that nobody uses."""
    free: tuple[FreeGpu, ...] = ()
    """Those, and those that are shared and have room for more."""
    queued: int
    running: int
    waits: str = ""
    """Why a part of it is not lent at the moment, for people: `the owner is using GPU 0 (9 GB)`."""
    paces: tuple[Pace, ...] = ()
    """How long jobs take here, of those that ran lately."""
    at: float = 0
    """When this was so, by the executor's clock."""


class Challenge(Value):
    """The executor's answer to a challenge: who it is, and what it has free."""

    nonce: str
    card: ExecutorCard
    capacity: Capacity
    version: str
    """Of pushtrain, for people."""
    protocol: int
    """Which one it speaks (`core.wire.protocol`)."""
