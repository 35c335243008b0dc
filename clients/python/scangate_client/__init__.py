"""Sends scans to a scangate gateway.

`Client` asks once and says what the gateway answered. `Outbox` is for devices that must not lose a scan: it keeps each one
in a file until the gateway has answered it for good, and sends what waits in batches, with the ids and times it was
scanned under, so that sending twice records once.

Nothing here logs, and no error shows a code: they name persons.
"""

from .client import Busy, Client, Rejected, TooLarge, Transport, Unauthorized
from .outbox import Flushed, Outbox
from .queue import Damaged, Full, InUse, Queue
from .types import REASONS, Answer, Duplicate, Recorded, Refused, Scan

__all__ = [
    "REASONS",
    "Answer",
    "Busy",
    "Client",
    "Damaged",
    "Duplicate",
    "Flushed",
    "Full",
    "InUse",
    "Outbox",
    "Queue",
    "Recorded",
    "Refused",
    "Rejected",
    "Scan",
    "TooLarge",
    "Transport",
    "Unauthorized",
]
