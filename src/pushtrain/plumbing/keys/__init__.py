"""Keys, whom they belong to, and what is sealed with them."""
