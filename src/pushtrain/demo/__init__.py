"""The embedded Git host and the sample project of `pushtrain demo`."""
