"""Push to train: a `git push` starts training on a lent GPU, and the results come back as a commit.

For training scripts it has `should_stop`, `checkpointed`, `checkpoint_dir`, `resuming`, `log` and `inside`:
see `pushtrain.job`. Importing it loads nothing else.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pushtrain.job import checkpoint_dir, checkpointed, inside, log, resuming, should_stop

__version__ = "0.1.0"
__all__ = ("checkpoint_dir", "checkpointed", "inside", "log", "resuming", "should_stop")


def __getattr__(name: str) -> Any:
    """What a training script asks for, loaded when it does."""
    if name in __all__:
        from pushtrain import job

        return getattr(job, name)
    raise AttributeError(f"module 'pushtrain' has no attribute {name!r}")
