"""What machines say to each other, and whether to believe it: signatures, cards, keys, secrets."""
