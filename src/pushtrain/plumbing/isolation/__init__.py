"""How a job is kept apart: who it is, what it sees, what it may ask of the kernel and of the network."""
