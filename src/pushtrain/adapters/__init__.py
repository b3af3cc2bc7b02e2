"""The outside world, one file for each vendor; found by name and imported when used."""
