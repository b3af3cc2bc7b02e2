"""Other programs: started, watched, and never left behind."""
