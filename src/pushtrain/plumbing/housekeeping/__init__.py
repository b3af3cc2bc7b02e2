"""What lies in a state folder, and when it goes."""
