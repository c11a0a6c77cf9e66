"""Values: their encoding, their places, and reading them back.

`values` is the entrance. Below it, in the order in which a large value goes: `parts` takes an
object apart into arrays and a pickle, `checksum` sums them up, `hdf5` writes them into one file,
`durable` gives that file its name, `segments` keeps many results in one file, `checkpoint` keeps
the state of one task. `sweeping` takes deleted results out of files again; `imported` are files
that exist without us.
"""
