"""Software: what the processes of a task find around them, besides what the pilots have.

Parts of messages and rows: fields are only ever added at the end, with defaults.
"""

# No annotations from the future: msgspec would compile each of them whenever a process starts.

import msgspec


class Container(msgspec.Struct, array_like=True, frozen=True):
    """A container that a program is to run in."""

    #: A directory, a file, or a name that the engine knows.
    image: str
    #: One of `pilot.launchers.containers.ENGINES`; empty: the first that is there and can have such
    #: an image.
    engine: str = ""
    #: ``/host``, ``/host:/inside`` or ``/host:/inside:ro``.
    binds: tuple[str, ...] = ()
    #: More options for the engine's command line.
    options: tuple[str, ...] = ()
    #: The Python in the image, for functions.
    python: str = "python3"


class Software(msgspec.Struct, array_like=True, frozen=True):
    """The software environment of a task: tasks share processes only where it is the same."""

    #: The directory of a virtual environment; empty: none.
    venv: str = ""
    #: The directory of a conda environment; empty: none.
    conda: str = ""
    #: Modules of the site, in the order in which they are loaded.
    modules: tuple[str, ...] = ()
    #: Names and values of variables.
    variables: tuple[tuple[str, str], ...] = ()
    container: Container | None = None
    #: True of tasks that are commands: only these are in the container, if there is one, and not
    #: the process that starts them.
    is_of_commands: bool = False

    @property
    def places(self) -> tuple[str, str, tuple[str, ...]]:
        """What a shell enters: the virtual and the conda environment, and the modules."""
        return self.venv, self.conda, self.modules

    @property
    def outer(self) -> Container | None:
        """The container that the executor itself runs in."""
        return None if self.is_of_commands else self.container

    def __str__(self) -> str:
        parts = [
            ("venv", self.venv),
            ("conda", self.conda),
            ("modules", " ".join(self.modules)),
            # Not their values, of which some may be secret.
            ("variables", " ".join(name for name, _ in self.variables)),
            ("container", self.container.image if self.container is not None else ""),
        ]
        return ", ".join(f"{name} {text}" for name, text in parts if text)

    @property
    def needs_start(self) -> bool:
        """True if its processes are programs of their own, and no forked copies."""
        return bool(
            self.venv or self.conda or self.modules or self.variables or self.outer is not None
        )
