"""The owner's rules, what they say of a run, and when a machine is lent."""
