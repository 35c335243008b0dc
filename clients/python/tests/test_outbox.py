"""No scan put into an outbox is lost or recorded twice, whatever becomes of the gateway meanwhile."""

import threading
import time
import unittest
from pathlib import Path

from scangate_client import (
    Busy,
    Client,
    Duplicate,
    Outbox,
    Queue,
    Recorded,
    Refused,
    Scan,
    Transport,
    Unauthorized,
)

from .gateway import Gateway

NO_LIMIT = {"SCANGATE_LIMITS__DEVICE_SCANS_PER_S": "0"}


def cards(count: int) -> list[Scan]:
    """Scans of citizen cards that differ in their number only; the sex, century and year in it are as printed."""
    card = "001090{:06}|012345678|NGUYEN VAN A|01011990|Nam|12 Phố Huế, Hà Nội|15042021"
    return [Scan(card.format(number), "in") for number in range(count)]


class AnOutbox(unittest.TestCase):
    def gateway(self, **settings: str) -> Gateway:
        gateway = Gateway(**settings)
        self.addCleanup(gateway.close)
        return gateway

    def outbox(self, gateway: Gateway) -> Outbox:
        queue = Queue(gateway.path / "queue", 10_000)
        self.addCleanup(queue.close)
        return Outbox(gateway.client(), queue)

    def test_single_answers_are_told_apart(self) -> None:
        gateway = self.gateway()
        client = gateway.client()
        scan = Scan(gateway.run("issue", "person", "visitor-1").rstrip("\n"))
        recorded = client.checkin(scan)
        assert isinstance(recorded, Recorded)
        self.assertEqual((recorded.direction, recorded.trust), ("in", "proven"))
        again = client.checkin(scan)
        assert isinstance(again, Duplicate)
        self.assertEqual(again.original["checkin"], recorded.checkin)
        refused = client.checkin(Scan("https://example.org/"))
        assert isinstance(refused, Refused)
        self.assertEqual(refused.outcome, "unrecognized")
        png = gateway.path / "code.png"
        gateway.run("issue", "person", "visitor-2", "--png", str(png))
        (answer,) = client.frame("photo-1", "image/png", Path(png).read_bytes())
        self.assertIsInstance(answer, Recorded)
        with self.assertRaises(Unauthorized):
            Client(gateway.base, "nonsense").checkin(scan)
        self.assertNotIn("SG1", repr(scan))

    def test_a_queue_outlives_the_gateway_and_every_scan_is_recorded_once(self) -> None:
        gateway = self.gateway(**NO_LIMIT)
        outbox, scans = self.outbox(gateway), cards(1500)
        for scan in scans[:500]:
            outbox.push(scan)
        self.assertEqual(outbox.flush().recorded, 500)
        gateway.kill()
        for scan in scans:
            outbox.push(scan)
        offline = outbox.flush()
        self.assertEqual(offline.waiting, 1500)
        self.assertIsInstance(offline.stopped_by, Transport)
        gateway.start()
        total = outbox.drain(60)
        self.assertEqual((total.recorded, total.duplicates, total.waiting), (1000, 500, 0), total)
        self.assertEqual(gateway.rows(), 1500)

    def test_killed_again_and_again_the_gateway_has_all_of_it_once(self) -> None:
        gateway = self.gateway(**NO_LIMIT)
        outbox = self.outbox(gateway)
        for scan in cards(2000):
            outbox.push(scan)
        totals = []
        sender = threading.Thread(target=lambda: totals.append(outbox.drain(60)))
        sender.start()
        for _ in range(3):
            time.sleep(0.15)
            gateway.kill()
            gateway.start()
        sender.join()
        (total,) = totals
        self.assertEqual((total.recorded + total.duplicates, total.waiting), (2000, 0), total)
        self.assertEqual(gateway.rows(), 2000)

    def test_over_its_rate_it_waits_and_loses_nothing(self) -> None:
        gateway = self.gateway(
            SCANGATE_LIMITS__DEVICE_SCANS_PER_S="100",
            SCANGATE_LIMITS__DEVICE_SCANS_BURST="100",
            SCANGATE_LIMITS__BATCH_LINES_MAX="100",
        )
        outbox = self.outbox(gateway)
        for scan in cards(450):
            outbox.push(scan)
        one = outbox.flush()
        self.assertIsInstance(one.stopped_by, Busy)
        self.assertTrue(one.recorded > 0 and one.waiting > 0, one)
        rest = outbox.drain(60)
        self.assertEqual((one.recorded + rest.recorded, rest.waiting), (450, 0), rest)
        self.assertEqual(gateway.rows(), 450)

    def test_what_can_never_be_recorded_holds_nothing_back(self) -> None:
        outbox = self.outbox(self.gateway(SCANGATE_LIMITS__BATCH_LINES_MAX="10"))
        for scan in cards(30):
            outbox.push(scan)
        outbox.push(Scan("https://example.org/"))
        outbox.push(Scan(cards(1)[0].qr, at="1970-01-01T00:00:00Z"))
        outbox.push(Scan(cards(1)[0].qr, id="an id with spaces"))
        total = outbox.drain(60)
        self.assertEqual((total.recorded, total.waiting), (30, 0), total)
        outcomes = sorted(refusal.outcome for refusal in total.refused.values())
        self.assertEqual(outcomes, ["clock_skew", "malformed", "unrecognized"])

    def test_a_refused_token_stops_and_keeps_everything(self) -> None:
        gateway = self.gateway()
        outbox = self.outbox(gateway)
        outbox.renew(Client(gateway.base, "nonsense"))
        outbox.push(cards(1)[0])
        self.assertIsInstance(outbox.drain(60).stopped_by, Unauthorized)
        self.assertEqual(len(outbox), 1)
        outbox.renew(gateway.client())
        self.assertEqual(outbox.drain(60).recorded, 1)
