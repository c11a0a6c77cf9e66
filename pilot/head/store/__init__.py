"""The database of a site: one SQLite file, its schema, its one writer, and its readers."""
