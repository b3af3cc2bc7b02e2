"""The machine's owner and its GPUs: what is lent when, who uses what, what is asked for back."""
