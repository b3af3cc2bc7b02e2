"""Which run goes where and when: turns, GPUs, retries, use."""
