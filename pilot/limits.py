"""Upper bounds of what goes into messages and rows of the database, in bytes unless stated.

What is larger is either data, which travels in segments and has no bound here, or is refused or
cut where it is made: by the client for what a user submits, by the executor for what a task
raises. The head checks again, since not every client is ours. SQLite takes rows of 1e9 bytes at
most, and one row that it does not take must not be what ends everybody's work.
"""

from __future__ import annotations

#: The pickle of a function with its closure and globals; what is larger is given as an argument.
FUNCTION_BYTES = 64 << 20
#: Arguments of a task that travel in messages, and what they refer to; larger ones are data.
ARGUMENTS_BYTES = 16 << 20
#: Messages and tracebacks of errors, each; they keep their beginning and their end.
ERROR_TEXT_BYTES = 16 << 10
#: Names of tasks, sessions, groups and values.
NAME_BYTES = 1 << 10
#: Default options, default results, variables, search paths: of one session or template.
OPTIONS_BYTES = 1 << 20
#: The value of a variable that a program hands on to its tasks, and names and values of all these.
VALUE_BYTES = 64 << 10
VARIABLES_BYTES = 256 << 10
#: The line of a process's output that is told as the reason for its end.
LAST_WORD_BYTES = 512
#: A message; what is larger cannot be sent, and whoever waits for it is told.
FRAME_BYTES = (1 << 32) - (1 << 16)
#: What a peer of the head has not read of what it was sent. Then it is broken off.
UNSENT_BYTES = 256 << 20
#: What a client is sent of its tasks' outcomes before it has read what it was sent earlier.
TOLD_BYTES = 8 << 20
#: What is submitted in one message, about: a single task or function may be larger.
SUBMIT_BYTES = 16 << 20
#: What a client has submitted and the head has not accepted; the rest waits with the client.
UNACCEPTED_BYTES = 64 << 20
#: What the head keeps that it cannot write; with more it hands out no work.
UNWRITTEN_BYTES = 256 << 20
#: So many parts of the output of a task are told: of very many ranks the first that wrote.
LOGS_MOST = 256
