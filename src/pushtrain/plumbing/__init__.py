"""This machine, our way: durable state, files, processes, git, data, and the executor as callers see it."""
