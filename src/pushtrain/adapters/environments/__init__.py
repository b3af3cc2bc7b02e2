"""Ways to build the environment that a job's command runs in."""
