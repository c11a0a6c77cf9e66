"""Fixtures of all tests: sites that are always ended, with every process that they started.

Tests wait with `support.waiting.wait_until` only, never by sleeping.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).resolve().parent))

# Before the first of them is imported: what their assertions compared is told.
pytest.register_assert_rewrite("support")

from support.sites import SiteUnderTest, local_template, site_under_test  # noqa: E402

from pilot import Session  # noqa: E402

# No deadlines: they tell how busy the machine is. Whoever wants to know more, or only whether it
# works at all, says --hypothesis-profile.
settings.register_profile("usual", max_examples=50, deadline=None)
settings.register_profile("few", max_examples=10, deadline=None)
settings.register_profile("many", max_examples=1000, deadline=None)
settings.load_profile("usual")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As where a shell runs the tests in the background: their children would not hear Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def runtime_directory() -> Iterator[None]:
    """Sockets of all sites under test lie in a directory of their own, with a short name."""
    with tempfile.TemporaryDirectory(prefix="pilot-tests-") as directory:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TMPDIR", directory)
            patch.setattr(tempfile, "tempdir", directory)
            # Where a rank calls MPI_Abort or mpiexec is killed, MPICH leaves in /tmp what it has
            # found out of the machine for its ranks. So each rank finds out by itself.
            patch.setenv("HWLOC_XMLFILE", "")
            yield


@pytest.fixture
def make_site() -> Iterator[Callable[..., SiteUnderTest]]:
    """Make local sites: ``make_site(cores=4, lease={...})``; see `support.sites.local_template`."""
    with ExitStack() as stack:

        def make(**changes: Any) -> SiteUnderTest:
            return stack.enter_context(site_under_test(local_template(**changes)))

        yield make


@pytest.fixture
def local_site(make_site: Callable[..., SiteUnderTest]) -> SiteUnderTest:
    """A local site for one test, with 2 cores."""
    return make_site()


@pytest.fixture(scope="module")
def cores() -> int:
    """The cores of the shared site, for modules to say; the machine may have fewer."""
    return 2


@pytest.fixture(scope="module")
def shared_site(cores: int) -> Iterator[SiteUnderTest]:
    """A local site for all tests of a module: for those that do no harm to it."""
    with site_under_test(local_template(cores=cores)) as site:
        yield site


@pytest.fixture(scope="module")
def session(shared_site: SiteUnderTest) -> Iterator[Session]:
    """A session on the shared site, for all tests of a module."""
    with shared_site.session() as session:
        yield session
