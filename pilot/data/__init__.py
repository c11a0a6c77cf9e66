"""Values: their encoding, their places, and reading them back.

`storing` is the entrance: it keeps a small value as `pickles` encodes it, inline. What only a
user's script defines is pickled by `pickling_by_value`; `unpicklable` says why an object cannot be.
In the order in which a large value goes: `parts` takes an object apart into arrays and a pickle,
`checksum` sums them up, a `draft` has them in one file, as `hdf5` lays it out, `durable` gives that
file its name, a `sealed_file` is one that has it,
`segments` keeps many results in one file, `checkpoint` keeps the state of one task. `sweeping`
takes deleted results out of files again; `imported` are files that exist without us.
"""
