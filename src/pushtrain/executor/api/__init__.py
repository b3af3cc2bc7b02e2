"""The executor's HTTP API: requests verified before they are read, answers and streams signed."""
