"""What a run leaves: collected, cleaned of secrets, reported, published."""
