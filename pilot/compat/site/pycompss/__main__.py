"""``python -m pycompss``: runs a program."""

from pilot.compat.compss.commands import pycompss

if __name__ == "__main__":
    pycompss()
