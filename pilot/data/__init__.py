"""Values: their encoding, their places, and reading them back.

`storing` is the entrance: it keeps a small value as `pickles` encodes it, inline. What only a
user's script defines is pickled by `pickling_by_value`; `unpicklable` says why an object cannot be.
In the order in which a large value goes: `parts` takes an object apart into arrays and a pickle,
`checksum` sums them up, `hdf5` writes them into one file, `durable` gives that file its name,
`segments` keeps many results in one file, `checkpoint` keeps the state of one task. `sweeping`
takes deleted results out of files again; `imported` are files that exist without us.
"""
