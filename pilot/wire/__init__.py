"""The messages between processes, and the ways in which they travel.

===============  =============================================================
`messages`       the messages
`channel`        servers and clients, over two ways
`unix`           one way, on one machine (`stream`, `greeting`, `socket_files`)
`tcp`            the other one, between machines (`listening`: the port)
`keys`           authentication
`endpoints`      addresses of a server; `addresses`: of a machine; `discovery`: of the head
`connection`     a client's, which outlives heads
===============  =============================================================
"""
