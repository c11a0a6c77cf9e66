"""Sites: the files of a site, and how a site is found by name or path.

A site is a directory on the parallel file system: its file ``site.yaml`` (what a person edits), the
database, keys, results, checkpoints and logs. Sites that are named lie under ``$PILOT_HOME``
(default ``~/.pilot``); the site ``local`` is made at its first use.

Invariants
----------
- A site that was opened is its user's: nobody else may write its directory or its file, nor, for a
  named site, put another directory in its place. What is made in it is private (0700).
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from pilot.data.directories import make_private
from pilot.data.patience import patient
from pilot.errors import SiteError
from pilot.site_configs import SiteConfig, SiteFileError, load_site_file, template_text, templates
from pilot.wire.keys import make_keys

SITE_FILE = "site.yaml"
#: The most bytes of a site's path: SQLite takes no path of a database over 512.
PATH_BYTES = 480


def pilot_home() -> Path:
    """Return the directory of the named sites: ``$PILOT_HOME``, or ``~/.pilot``."""
    return Path(os.environ.get("PILOT_HOME") or Path.home() / ".pilot").expanduser().absolute()


class SiteGone(SiteError):
    """An error: a site that existed has gone."""


class Site(Struct, frozen=True):
    """A site: its directory and its configuration."""

    #: Absolute path.
    directory: Path
    config: SiteConfig
    #: The name that users know the site by.
    name: str = ""

    @property
    def database(self) -> Path:
        """The SQLite file, which only the head opens."""
        return self.directory / "tasks.db"

    @property
    def lease_file(self) -> Path:
        """The path of the head's lease files, without their epoch."""
        return self.directory / "head.lease"

    @property
    def address_file(self) -> Path:
        """The file with the head's address and public key."""
        return self.directory / "head.json"

    @property
    def keys(self) -> Path:
        """The directory of the CURVE keys."""
        return self.directory / "keys"

    @property
    def results(self) -> Path:
        """The directory of values that are too large for the database, by session."""
        return self.directory / "results"

    @property
    def logs(self) -> Path:
        """The directory of the output of the head, the pilots and the tasks."""
        return self.directory / "logs"

    @property
    def jobs(self) -> Path:
        """The directory of the records and output of the batch jobs."""
        return self.directory / "jobs"

    @property
    def checkpoints(self) -> Path:
        """The directory of in-task checkpoints, by session and task."""
        return self.directory / "checkpoints"

    @property
    def environments(self) -> Path:
        """The directory of the virtual environments that were made for tasks."""
        return self.directory / "environments"

    @property
    def wire(self) -> Path:
        """The directory of the connections over files."""
        return self.directory / "wire"

    def unreached(self, pilot: str) -> Path:
        """Return the file in which a pilot says that it does not reach the head."""
        return self.jobs / f"{pilot}.unreached"

    def check_there(self) -> None:
        """Check that the directory exists and still is a site.

        Raises
        ------
        SiteGone
            The directory is not there.
        """
        try:
            is_there = (self.directory / SITE_FILE).exists()
        except OSError:
            return  # nobody knows now
        if not is_there:
            raise self._gone()

    def _gone(self) -> SiteGone:
        what = f"has no {SITE_FILE}" if self.directory.is_dir() else "is gone"
        return SiteGone(
            f"the site directory {self.directory} {what}: was it moved or removed, or is its file "
            "system away? Put it back, and nothing is lost"
        )

    @patient
    def prepare(self) -> None:
        """Create what is missing in the directory, with private modes, and check what exists.

        Raises
        ------
        SiteGone
            The directory is no longer a site.
        SiteError
            The directory cannot be written, or others may change what is in it.
        """
        self.check_there()
        directories = (self.logs, self.jobs, self.checkpoints)
        files = (self.database, self.address_file, self.lease_file)
        try:
            for path in directories:
                make_private(path, self.directory)
            make_keys(self.keys)
            mended_by = f"-R go-w {shlex.quote(str(self.directory))}"
            for path in (self.keys, *directories, self.results, self.wire, *files):
                with suppress(FileNotFoundError):
                    _check_owner(path, mended_by)
        except FileNotFoundError as error:
            raise self._gone() from error
        except OSError as error:
            raise SiteError(
                f"the site directory {self.directory} cannot be written: {error.strerror}; "
                "choose another with $PILOT_HOME or `pilot init`, or mend its permissions"
            ) from error


def _check_owner(path: Path, mended_by: str = "", is_above: bool = False) -> None:
    """Check that nobody else may change a directory or file.

    Parameters
    ----------
    path
        The directory or file.
    mended_by
        The arguments for ``chmod`` to mend it; default: for this path alone.
    is_above
        True if only the contents of the directory must be safe, as they are in ``/tmp``, which is
        sticky: everybody may put things there, and change nobody else's.

    Raises
    ------
    SiteError
        Somebody may.
    """
    status = path.stat()
    if status.st_uid not in (0, os.geteuid()):
        raise SiteError(
            f"{path} belongs to user {status.st_uid}, and not to you (user {os.geteuid()}): "
            "who owns a site's directory can run programs as whoever uses it; choose another with "
            "$PILOT_HOME or `pilot init`"
        )
    is_sticky = bool(status.st_mode & stat.S_ISVTX)
    if status.st_mode & 0o022 and not (is_above and is_sticky):
        raise SiteError(
            f"{path} can be changed by others, who could run programs as you by that; make it "
            f"yours alone: chmod {mended_by or f'go-w {shlex.quote(str(path))}'}"
        )


def _check_path(directory: Path) -> None:
    """Refuse a path that a batch system or the database cannot use.

    Raises
    ------
    SiteError
        The path has line breaks, backslashes or bytes that are not UTF-8, or it is too long.
    """
    path = str(directory.absolute())
    if not path.isprintable() or "\\" in path:
        raise SiteError(
            f"{path!r} cannot be the directory of a site: its path has characters that cannot be "
            "printed, or a backslash; choose another one with $PILOT_HOME or `pilot init`"
        )
    if len(path.encode()) > PATH_BYTES:
        raise SiteError(
            f"{path!r} cannot be the directory of a site: its path has more than {PATH_BYTES} "
            "bytes; choose another one with $PILOT_HOME or `pilot init`"
        )


def _check_home(directory: Path) -> None:
    """Check the directories above the named sites, as far up as they belong to the user.

    Raises
    ------
    SiteError
        Somebody else may put another directory in the place of one of them.
    """
    user = Path.home()
    # A link is in the hands of users who may write where it is, and where it leads.
    for above, top in (
        (directory.absolute().parents, user.absolute()),
        (directory.resolve().parents, user.resolve()),
    ):
        for path in above[: above.index(top) + 1] if top in above else above[:1]:
            _check_owner(path, is_above=True)


def create_site(directory: Path, template: str, *, exist_ok: bool = False) -> Site:
    """Make a site directory from a template.

    Raises
    ------
    SiteError
        There is a site already, the template is unknown, or the place cannot be written.
    """
    if template not in templates():
        raise SiteError(f"there is no template {template!r}; there are {', '.join(templates())}")
    return place_site(directory, template_text(template), exist_ok=exist_ok)


def place_site(directory: Path, text: str, *, exist_ok: bool = False) -> Site:
    """Make a site directory with this text as its file.

    Raises
    ------
    SiteError
        There is a site already, the text is wrong, or the place cannot be written.
    """
    _check_path(directory)
    path = directory / SITE_FILE
    try:
        make_private(directory)
        directory.chmod(0o700)
        if not path.exists():
            partial = path.with_suffix(f".{os.getpid()}")
            partial.write_text(text, encoding="utf-8")
            partial.chmod(0o600)
            partial.replace(path)
        elif not exist_ok:
            raise SiteError(f"{path} exists already; edit it, or choose another directory")
    except OSError as error:
        raise SiteError(
            f"a site cannot be made in {directory}: {error.strerror}; choose another directory, "
            "or set $PILOT_HOME to one that you can write"
        ) from error
    site = open_site(directory)
    site.prepare()
    return site


@patient
def open_site(directory: Path) -> Site:
    """Read a site's file.

    Raises
    ------
    SiteError
        The file is missing or wrong, or others could change it.
    """
    _check_path(directory)
    path = directory / SITE_FILE
    try:
        if directory.is_dir():
            _check_owner(directory)
        if not path.exists():
            raise SiteError(
                f"{directory} is not a site: it has no {SITE_FILE}; `pilot init` makes one"
            )
        _check_owner(path)
        if directory.absolute().parent == pilot_home():
            _check_home(directory)
        config = load_site_file(path)
    except SiteFileError as error:
        raise SiteError(str(error)) from error
    except OSError as error:
        raise SiteError(f"{path} cannot be read: {error.strerror}") from error
    return Site(directory.absolute(), config, config.name or directory.name)


def find_site(name: str | os.PathLike[str] | None = None) -> Site:
    """Find a site by its name or path; None: by ``$PILOT_SITE``, or ``local``.

    Raises
    ------
    SiteError
        There is no such site; the message names those that there are.
    """
    wanted = os.fspath(name) if name is not None else os.environ.get("PILOT_SITE") or "local"
    if "/" in wanted or wanted.startswith("."):
        return open_site(Path(wanted).expanduser().absolute())
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", wanted):
        raise SiteError(f"{wanted!r} is not a valid site name; give a name, or a path with a slash")
    directory = pilot_home() / wanted
    if _may_be_site(directory):
        return open_site(directory)
    if wanted == "local":
        return create_site(directory, "local", exist_ok=True)
    known = ", ".join(list_sites()) or "none yet"
    raise SiteError(
        f"there is no site {wanted!r} in {pilot_home()} (there: {known}); "
        f"make it with `pilot init --template slurm {wanted}`, or give its path"
    )


def _may_be_site(directory: Path) -> bool:
    try:
        return (directory / SITE_FILE).exists()
    except PermissionError:
        return True  # whose it is, and what to do, is told when it is opened


def list_sites() -> list[str]:
    """Return the names of the sites under `pilot_home`."""
    home = pilot_home()
    if not home.is_dir():
        return []
    return sorted(path.parent.name for path in home.glob(f"*/{SITE_FILE}"))


def working_directory() -> Path:
    """Return the working directory of this process.

    Raises
    ------
    SiteError
        The directory has been removed.
    """
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise SiteError(
            "the working directory of this program has been removed, and tasks would work there; "
            "change to one that is there"
        ) from None


def rank_log(pilot: str, world: int, rank: int) -> str:
    """Return the path of a rank's output file, relative to the site directory."""
    return f"logs/{pilot}/world-{world}-rank-{rank}.out"
