"""What tests of several directories share; `tests/conftest.py` puts it on the search path."""
