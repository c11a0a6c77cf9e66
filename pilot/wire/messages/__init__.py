"""The messages on the wire: typed structs, and nothing else.

==========  ====================================================================
`client`    clients ↔ head
`pilot`     pilots (their agents) ↔ head
`worker`    agent ↔ node workers, executors and MPI ranks
`head`      everything that a head may hear
`common`    the form of a message, and the answer to either greeting
==========  ====================================================================

A module imports as ``m`` the messages of the peer that it speaks with, and others by their names.

Invariants
----------
- Every message is a tagged, array-like struct, so that a frame of a thousand tasks costs a few
  microseconds to read. The tag is the name of the class.
- Fields are only ever added at the end, with defaults. A change of meaning raises `PROTOCOL`, and
  the greeting of either side is refused where it differs.
- Numbers have bounds (`pilot.model.bounds`): what is decoded can be computed with, and stored.
"""

#: Raised whenever the meaning of a message changes.
PROTOCOL = 7
