"""Git hosts: what a push looks like when it arrives as a webhook."""
