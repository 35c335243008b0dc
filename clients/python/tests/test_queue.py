import tempfile
import unittest
from pathlib import Path

from scangate_client import Damaged, Full, InUse, Queue, Scan
from scangate_client.outbox import BACKOFF_MAX_S, BACKOFF_MIN_S, pause


def scan(number: int) -> Scan:
    return Scan("https://qr.pccovid.gov.vn/Ab3x", id=f"scan-{number}")


class QueueFile(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name) / "queue"

    def waiting(self) -> list[str]:
        with Queue(self.path, 10_000) as queue:
            return list(queue.oldest(10_000, 1 << 30))

    def test_what_waits_is_there_after_a_restart_and_what_is_done_is_not(self) -> None:
        with Queue(self.path, 10) as queue:
            for number in [0, 1, 2, 3, 2]:
                queue.push(scan(number))
            queue.settle(["scan-0", "scan-2"])
        self.assertEqual(self.waiting(), ["scan-1", "scan-3"])

    def test_a_torn_line_is_cut_off_and_a_damaged_one_is_told(self) -> None:
        with Queue(self.path, 10) as queue:
            queue.push(scan(1))
        whole = self.path.read_bytes()
        for torn in range(1, len(whole)):
            self.path.write_bytes(whole + whole[:torn])
            self.assertEqual(self.waiting(), ["scan-1"], f"torn at {torn}")
            with Queue(self.path, 10) as queue:
                queue.push(scan(2))
            self.assertEqual(self.waiting(), ["scan-1", "scan-2"], f"torn at {torn}")
        self.path.write_bytes(b"nonsense\n" + whole)
        with self.assertRaises(Damaged):
            Queue(self.path, 10)

    def test_it_is_bounded_and_one_process_has_it(self) -> None:
        with Queue(self.path, 2) as queue:
            queue.push(scan(1))
            queue.push(scan(2))
            with self.assertRaises(Full):
                queue.push(scan(3))
            with self.assertRaises(InUse):
                Queue(self.path, 2)

    def test_a_file_of_done_lines_is_written_anew(self) -> None:
        with Queue(self.path, 2000) as queue:
            for number in range(1100):
                queue.push(scan(number))
            queue.settle([f"scan-{number}" for number in range(1050)])
            self.assertEqual(len(self.path.read_bytes().splitlines()), 50)
            queue.push(scan(5000))
        self.assertEqual(len(self.waiting()), 51)

    def test_a_batch_takes_what_fits_and_one_in_any_case(self) -> None:
        with Queue(self.path, 10) as queue:
            for number in range(4):
                queue.push(scan(number))
            length = len(scan(0).line())
            self.assertEqual(len(queue.oldest(3, 1 << 20)), 3)
            self.assertEqual(len(queue.oldest(9, 2 * length)), 2)
            self.assertEqual(len(queue.oldest(9, 1)), 1)

    def test_pauses_double_up_to_a_bound_and_keep_what_the_gateway_asks(self) -> None:
        for failures in [0, 1, 5, 20, 10_000]:
            self.assertLessEqual(pause(failures, None), BACKOFF_MAX_S)
            self.assertGreaterEqual(pause(failures, 7), 7)
            self.assertLessEqual(pause(0, None), BACKOFF_MIN_S)
