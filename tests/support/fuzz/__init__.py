"""A fuzzer of every decoder and port: bounded rounds, each known by its seed.

`samples` makes what is sent, `decoders` gives it to all that decodes, in this process, and `ports`
to the processes of a site: without the key, and with it. The tests in `tests/fuzz` run a few rounds
of each; ``scripts/fuzz`` runs them for as long as it is told to.
"""
