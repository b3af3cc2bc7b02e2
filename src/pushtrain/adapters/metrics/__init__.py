"""Formats that a job may leave its metrics in."""
