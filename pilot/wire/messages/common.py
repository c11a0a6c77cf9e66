"""The form of all messages, and the answer to a greeting, which clients and pilots share."""

# No annotations from the future: msgspec would compile each of them whenever a process starts.

import msgspec

from pilot.model.bounds import Number

#: What a head says to a peer that it does not know (any more): greet again.
WHO_ARE_YOU = "who are you?"


class Message(msgspec.Struct, array_like=True, tag=True):
    """A message, by the name of its class."""


class Welcome(Message):
    """The answer to either greeting; `refused` gives the reason where it is not empty."""

    epoch: Number
    version: str
    refused: str = ""
    #: To clients: the Python of the pilots, as `pilot.data.pickling_by_value.INTERPRETER` has it;
    #: empty: the head does not know.
    python: str = ""
    #: The identity of the head's database: in another one no task that is known is known.
    database: str = ""
