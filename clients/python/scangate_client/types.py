"""The bodies of the API, as /openapi.json describes them; tests/test_contract.py holds them to it."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal

Direction = Literal["in", "out", "auto"]

#: The names of refusals.
REASONS = frozenset(
    {
        "unrecognized",
        "payment_code",
        "bad_signature",
        "unknown_key",
        "expired",
        "not_yet_valid",
        "revoked",
        "inconsistent_identity",
        "chunked_code",
        "wrong_subject",
        "clock_skew",
        "no_code_found",
        "malformed",
        "unauthenticated",
        "too_large",
        "rate_limited",
        "overloaded",
        "unavailable",
    }
)

#: Refusals that may not be repeated later.
FOR_NOW = frozenset({"rate_limited", "overloaded", "unavailable", "unauthenticated"})


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Scan:
    """What a scanner read, and when."""

    qr: str = field(repr=False)
    """The code's text as it was read, at most 4,096 bytes."""
    direction: Direction = "auto"
    """Which way the person went; `auto` is the opposite of the last check-in there."""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    """This scan's own name, 1 to 64 visible ASCII characters. Sent again under it, a scan is recorded once."""
    at: str = field(default_factory=_now)
    """When it was scanned, RFC 3339."""

    def line(self) -> bytes:
        """As it is sent, with its line end."""
        scan = {"id": self.id, "qr": self.qr, "at": self.at, "direction": self.direction}
        return json.dumps(scan, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True)
class Recorded:
    """A check-in that is on disk."""

    checkin: str
    id: str
    direction: str
    subject: str
    trust: str
    at: str


@dataclass(frozen=True)
class Duplicate:
    """A scan that an earlier check-in stands for, which is on disk."""

    original: dict[str, str]
    """That check-in's `checkin` and `at`."""
    id: str
    direction: str
    subject: str
    trust: str
    at: str


@dataclass(frozen=True)
class Refused:
    """Why a scan was not recorded. `detail` names fields and limits, never what the code said."""

    outcome: str
    detail: str
    id: str | None = None
    field: str | None = None
    bound: str | None = None
    limit: int | None = None
    value: int | None = None
    retry_after_s: int | None = None


Answer = Recorded | Duplicate | Refused


def answer(body: dict[str, Any]) -> Answer:
    """The answer in a body or a line of one."""
    kinds: dict[str, type[Recorded] | type[Duplicate]] = {"recorded": Recorded, "duplicate": Duplicate}
    kind = kinds.get(body["outcome"], Refused)
    return kind(**{name: body[name] for name in kind.__dataclass_fields__ if name in body})
