"""Files that are whole or absent, the folders that we keep, and whose they are."""
