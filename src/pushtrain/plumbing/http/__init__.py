"""HTTP: the executor as its callers see it, signed both ways, and servers that nobody can hold up."""
