"""A gate: reads codes from standard input, one a line, and checks each in.

    python3 gate.py http://127.0.0.1:8080 TOKEN-FILE QUEUE-FILE

Each code is safe in the queue file before the next one is read. While the gateway can't be reached they wait there, and a
later run sends them.
"""

import sys
from pathlib import Path

from scangate_client import Client, Flushed, Outbox, Queue, Scan


def report(flushed: Flushed) -> None:
    print(
        f"{flushed.recorded} recorded, {flushed.duplicates} known, {len(flushed.refused)} refused, {flushed.waiting} waiting"
    )
    for id, refusal in flushed.refused.items():
        print(f"  {id}: {refusal.detail}")
    if flushed.stopped_by is not None:
        print(f"  {flushed.stopped_by}")


def main() -> None:
    base, token, queue = sys.argv[1:]
    client = Client(base, Path(token).read_text().strip(), timeout_s=5)
    with Queue(queue, scans_max=10_000) as waiting:
        outbox = Outbox(client, waiting)
        for code in sys.stdin:
            outbox.push(Scan(code.rstrip("\r\n")))
            report(outbox.flush())
        report(outbox.drain(5))


main()
