"""The room on the lending machine: accept signed commands, run them, commit the results."""
