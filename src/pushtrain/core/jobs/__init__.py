"""`pushtrain.toml`: the jobs of a commit, and which cells they have."""
