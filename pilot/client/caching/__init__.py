"""Caching: the digests of code, arguments and files by which a task's results are found again."""
