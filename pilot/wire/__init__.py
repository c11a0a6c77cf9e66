"""The messages between processes, and the ways in which they travel.

===============  =============================================================
`messages`       the messages, with a module for each kind of peer
`channel`        servers and clients, over three ways
`unix`           one way, on one machine (`stream`, `greeting`, `socket_files`)
`tcp`            the other one, between machines (`listening`: the port)
`files`          the one between machines that only share a file system
`keys`           authentication
`endpoints`      addresses of a server; `addresses`: of a machine; `discovery`: of the head
===============  =============================================================
"""
