"""Names of `pycompss.runtime.management`."""
