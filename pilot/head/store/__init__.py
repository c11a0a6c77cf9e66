"""The database of a site: one SQLite file, its schema, its one writer, and its readers.

================  ==============================================================
`store`           the database as the head has it open: joins what follows
`statements`      the SQL (``schema.sql``, ``queries.sql``), and its version
`opening`         settings, tables, and the errors of a file that cannot be opened
`reader`          the queries, and what a new head takes over
`rows`            encoding and decoding of rows; `damage`: what cannot be read
`batch`           the changes that one transaction writes, in their order
`writer`          transactions, and the moment when they are durable
`unfit`           a batch of which the database does not take every row
`deletion`        the rows that go with results and sessions, and the garbage
`copies`          backups, and a new file in place of one that vanished
`place`           the file of an open database: still there, or not
`database_file`   the file before it is opened: missing, or an earlier head's
`search`          lists of tasks: filters, order, pages and counts
================  ==============================================================
"""
