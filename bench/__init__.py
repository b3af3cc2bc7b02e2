"""What a run costs above the bare work: `make bench`."""
