"""What Git hosts tell: a branch or tag moved."""

from typing import Final

from pushtrain.core.values.value import Value

NO_COMMIT: Final = "0" * 40
"""What Git hosts send as `before` of a new branch and `after` of a deleted one."""


class Push(Value):
    """A branch or tag of a repository moved."""

    host: str
    repository: str
    """Full name on the host, for example `octo/hello`."""
    repository_id: str = ""
    """The host's own number for it, when it has one: checked, never hashed."""
    ref: str
    """Fully qualified: `refs/heads/main`."""
    before: str
    after: str
    pusher: str = ""
    delivery: str
    """Unique for each delivery; a redelivery repeats it."""

    @property
    def key(self) -> str:
        """The repository key, `host/path`."""
        return f"{self.host.lower()}/{self.repository}"

    @property
    def deletes(self) -> bool:
        """Whether this push deleted the ref."""
        return set(self.after) == {"0"}
