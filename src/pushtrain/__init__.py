"""Push to train: a `git push` starts training on a lent GPU, and the results come back as a commit."""

__version__ = "0.1.0"
