"""The messages that a head may hear: those of clients and of pilots."""

from __future__ import annotations

from typing import TypeAlias

from pilot.wire.messages.client import FromClient
from pilot.wire.messages.pilot import FromPilot

ToHead: TypeAlias = FromClient | FromPilot
