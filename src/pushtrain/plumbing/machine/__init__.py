"""This machine: its GPUs, what they use, its services and its time."""
