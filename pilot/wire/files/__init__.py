"""Frames between machines that share a file system and no network.

===============  =============================================================
`records`        what is in the files (pure)
`disk`           the system calls on them
`outgoing`       one direction of a connection, as its writer has it
`incoming`       the same as its reader has it
`connection`     both, with the rules of when to look and whom to take for gone
`helper`         the thread that looks and writes
`arrived`        the frames that it has read
`listener`       the end that many connect to
`line`           the one that connects
===============  =============================================================

A listener has a directory. Whoever connects makes a directory in it, with an append-only file for
each direction: ``up.1``, which it writes itself, and ``down.1``, which the listener writes. A file
that has grown goes on in the next one (``up.2``), and its reader removes it.
"""
