"""The messages between processes, and the ways in which they travel.

===============  =============================================================
`messages`       what is said
`channel`        how: servers and clients, by two ways
`unix`           one way, on one machine (`stream`, `greeting`, `socket_files`)
`tcp`            the other one, between machines (`listening`: the port)
`keys`           who is let in
`endpoints`      where a server is; `addresses`: for others; `discovery`: where the head is
`connection`     a client's, which outlives heads
===============  =============================================================
"""
