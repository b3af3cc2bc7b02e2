"""Runs that give way, wait again, and take their checkpoint to another executor."""
