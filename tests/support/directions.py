"""The directions in which messages travel, each with the union of its messages."""

from __future__ import annotations

from typing import Any

from pilot.wire.messages.client import ToClient
from pilot.wire.messages.head import ToHead
from pilot.wire.messages.pilot import ToPilot
from pilot.wire.messages.store import GetPart, Part
from pilot.wire.messages.worker import ToAgent, ToExecutor, ToNode

DIRECTIONS: dict[str, Any] = {
    "ToHead": ToHead,
    "ToClient": ToClient,
    "ToPilot": ToPilot,
    "ToAgent": ToAgent,
    "ToNode": ToNode,
    "ToExecutor": ToExecutor,
    "ToStore": GetPart,
    "FromStore": Part,
}
