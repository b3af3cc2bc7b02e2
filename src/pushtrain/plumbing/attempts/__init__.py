"""One attempt's folder, its log, and what it was given."""
