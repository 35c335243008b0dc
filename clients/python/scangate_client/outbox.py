"""A queue and a client: what is put in is sent until it is answered for good."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

from .client import Busy, Client, ClientError, Rejected, TooLarge, Transport, Unauthorized
from .queue import Queue
from .types import FOR_NOW, Duplicate, Recorded, Refused, Scan

#: What a gateway takes in one batch, unless it is configured to take less.
BATCH_LINES_MAX = 1000
BATCH_BYTES_MAX = 1024 * 1024

#: The first wait after a failure, and the longest.
BACKOFF_MIN_S = 0.5
BACKOFF_MAX_S = 60.0


@dataclass
class Flushed:
    """What became of scans in one go."""

    recorded: int = 0
    duplicates: int = 0
    refused: dict[str, Refused] = field(default_factory=dict)
    """Refused for good, by id; out of the queue."""
    waiting: int = 0
    stopped_by: ClientError | None = None
    """Why some wait; none do without a reason."""


class Outbox:
    """Keeps scans until the gateway has them."""

    def __init__(self, client: Client, queue: Queue) -> None:
        self._client, self._queue = client, queue

    def push(self, scan: Scan) -> None:
        """Takes a scan in. It is on disk when this returns."""
        self._queue.push(scan)

    def __len__(self) -> int:
        return len(self._queue)

    def renew(self, client: Client) -> None:
        """Sends under another token from now on."""
        self._client = client

    def flush(self) -> Flushed:
        """Sends what waits, oldest first, until nothing does or the gateway asks for a pause."""
        flushed, lines_max = Flushed(), BATCH_LINES_MAX
        while len(self._queue) and flushed.stopped_by is None:
            batch = self._queue.oldest(lines_max, BATCH_BYTES_MAX)
            try:
                self._queue.settle(self._send(batch, flushed))
            except TooLarge as error:
                # A gateway with narrower limits. One line that is too large alone is too large for good.
                if len(batch) > 1:
                    lines_max = len(batch) // 2
                else:
                    flushed.refused |= {id: Refused("too_large", str(error)) for id in batch}
                    self._queue.settle(batch)
        flushed.waiting = len(self._queue)
        return flushed

    def drain(self, patience_s: float) -> Flushed:
        """Flushes again and again, with pauses, until nothing waits, patience has run out or only another token helps."""
        deadline = time.monotonic() + patience_s
        total, failures = Flushed(), 0
        while True:
            before = len(self._queue)
            one = self.flush()
            failures = 0 if one.waiting < before else failures + 1
            total = Flushed(
                total.recorded + one.recorded,
                total.duplicates + one.duplicates,
                total.refused | one.refused,
                one.waiting,
                one.stopped_by,
            )
            if one.stopped_by is None or isinstance(one.stopped_by, Unauthorized | Rejected):
                return total
            asked = one.stopped_by.retry_after_s if isinstance(one.stopped_by, Busy) else None
            pause_s = pause(failures, asked)
            if time.monotonic() + pause_s > deadline:
                return total
            time.sleep(pause_s)

    def _send(self, batch: dict[str, bytes], flushed: Flushed) -> list[str]:
        """Sends a batch; returns those that are answered for good, as far as the answer came."""
        ids, settled = list(batch), []
        try:
            for number, _status, answer in self._client.batch(b"".join(batch.values())):
                if not 1 <= number <= len(ids):
                    continue
                id = ids[number - 1]
                if isinstance(answer, Recorded):
                    flushed.recorded += 1
                elif isinstance(answer, Duplicate):
                    flushed.duplicates += 1
                elif answer.outcome in FOR_NOW:
                    flushed.stopped_by = Busy(answer.detail, answer.retry_after_s)
                    continue
                else:
                    flushed.refused[id] = answer
                settled.append(id)
        except TooLarge:
            raise
        except ClientError as error:
            flushed.stopped_by = error
        if len(settled) < len(ids) and flushed.stopped_by is None:
            flushed.stopped_by = Transport("the answer left scans out")
        return settled


def pause(failures: int, asked_s: float | None) -> float:
    """How long to wait after so many failures in a row.

    Any time up to a bound that doubles, so that devices that lost the same gateway don't come back together; never shorter
    than the gateway asked for.
    """
    bound = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2 ** min(failures, 16))
    return random.uniform(0, bound) + (asked_s or 0)
