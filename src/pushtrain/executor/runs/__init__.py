"""The way of a run on this machine: claimed, prepared, started, watched, ended."""
