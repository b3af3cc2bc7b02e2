"""Git: mirrors, commits made without a work tree, large files. What a job can write is never trusted."""
