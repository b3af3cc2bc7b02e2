"""The values that flow through the house, and the words for them; all frozen, all strict."""
