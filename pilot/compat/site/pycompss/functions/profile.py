"""Names of `pycompss.functions.profile`."""

from pilot.compat.compss.functions import Profile

profile = PROFILE = Profile

__all__ = ["PROFILE", "Profile", "profile"]
