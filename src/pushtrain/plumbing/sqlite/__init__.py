"""The durable state: one SQLite file, its schema, what is read and written in one transaction."""
