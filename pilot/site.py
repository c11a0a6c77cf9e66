"""Where a site keeps its files, and how a site is found by name or path.

A site is a directory on the parallel file system: its file ``site.yaml`` (what a person edits), the
database, keys, results, checkpoints and logs. It is private (0700) to its user. Sites that are
named lie under ``$PILOT_HOME`` (default ``~/.pilot``); the site ``local`` is made at its first use.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import zmq.auth

from pilot.errors import SiteError
from site_configs import SiteConfig, SiteFileError, load_site_file, template_text, templates

SITE_FILE = "site.yaml"


def pilot_home() -> Path:
    """The directory of the named sites: ``$PILOT_HOME``, or ``~/.pilot``."""
    return Path(os.environ.get("PILOT_HOME") or Path.home() / ".pilot").expanduser().absolute()


@dataclass(frozen=True)
class Site:
    """A site: its directory and its configuration."""

    #: Absolute path.
    directory: Path
    config: SiteConfig
    #: What users call it.
    name: str = field(default="")

    @property
    def database(self) -> Path:
        """The SQLite file, which only the head opens."""
        return self.directory / "tasks.db"

    @property
    def lease_file(self) -> Path:
        """Who is head."""
        return self.directory / "head.lease"

    @property
    def address_file(self) -> Path:
        """Where the head listens, and its public key."""
        return self.directory / "head.json"

    @property
    def keys(self) -> Path:
        """The CURVE keys."""
        return self.directory / "keys"

    @property
    def results(self) -> Path:
        """Values that are too large for the database, by session."""
        return self.directory / "results"

    @property
    def logs(self) -> Path:
        """Output of the head, the pilots and the tasks."""
        return self.directory / "logs"

    @property
    def jobs(self) -> Path:
        """Records and output of the batch jobs."""
        return self.directory / "jobs"

    @property
    def checkpoints(self) -> Path:
        """In-task checkpoints, by session and task."""
        return self.directory / "checkpoints"

    def prepare(self) -> None:
        """Make what is missing in the directory, with private modes.

        Raises
        ------
        SiteError
            The directory cannot be written.
        """
        try:
            for path in (self.keys, self.logs, self.jobs, self.checkpoints):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in ("server", "client"):
                if not (self.keys / f"{name}.key_secret").exists():
                    _make_key(self.keys, name)
        except OSError as error:
            raise SiteError(
                f"the site directory {self.directory} cannot be written: {error.strerror}; "
                "choose another with $PILOT_HOME or `pilot init`, or mend its permissions"
            ) from error


def _make_key(directory: Path, name: str) -> None:
    """Write a CURVE key pair; the secret half is readable by its owner alone."""
    mask = os.umask(0o077)
    try:
        zmq.auth.create_certificates(directory, name)
    finally:
        os.umask(mask)


def create_site(directory: Path, template: str, *, exist_ok: bool = False) -> Site:
    """Make a site directory from a template.

    Raises
    ------
    SiteError
        There is a site already, the template is unknown, or the place cannot be written.
    """
    if template not in templates():
        raise SiteError(f"there is no template {template!r}; there are {', '.join(templates())}")
    path = directory / SITE_FILE
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        if not path.exists():
            partial = path.with_suffix(f".{os.getpid()}")
            partial.write_text(template_text(template))
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


def open_site(directory: Path) -> Site:
    """Read a site's file.

    Raises
    ------
    SiteError
        There is none, or it is wrong.
    """
    path = directory / SITE_FILE
    if not path.is_file():
        raise SiteError(f"{directory} is no site: it has no {SITE_FILE}; `pilot init` makes one")
    try:
        config = load_site_file(path)
    except SiteFileError as error:
        raise SiteError(str(error)) from error
    except OSError as error:
        raise SiteError(f"{path} cannot be read: {error.strerror}") from error
    return Site(directory.absolute(), config, config.name or directory.name)


def find_site(name: str | os.PathLike[str] | None = None) -> Site:
    """The site of this name or path; None: ``$PILOT_SITE``, or ``local``.

    Raises
    ------
    SiteError
        There is no such site; the message names those that there are.
    """
    wanted = os.fspath(name) if name is not None else os.environ.get("PILOT_SITE") or "local"
    if "/" in wanted or wanted.startswith("."):
        return open_site(Path(wanted).expanduser().absolute())
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", wanted):
        raise SiteError(f"{wanted!r} is no name of a site; give a name, or a path with a slash")
    directory = pilot_home() / wanted
    if (directory / SITE_FILE).exists():
        return open_site(directory)
    if wanted == "local":
        return create_site(directory, "local", exist_ok=True)
    known = ", ".join(list_sites()) or "none yet"
    raise SiteError(
        f"there is no site {wanted!r} in {pilot_home()} (there: {known}); "
        f"make it with `pilot init --template slurm {wanted}`, or give its path"
    )


def list_sites() -> list[str]:
    """Names of the sites under `pilot_home`."""
    home = pilot_home()
    if not home.is_dir():
        return []
    return sorted(path.parent.name for path in home.glob(f"*/{SITE_FILE}"))
