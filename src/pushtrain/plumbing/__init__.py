"""This machine, our way: durable state, files, processes, git, data, and the executor's API as a caller sees it."""
