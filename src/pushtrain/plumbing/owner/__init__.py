"""The owner of this machine: whether they are here, and what they have ordered."""
