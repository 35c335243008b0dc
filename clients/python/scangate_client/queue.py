"""The file in which scans wait; the same as the Rust client's.

Append-only NDJSON: a scan as it will be sent, or `{"done":"<id>"}` once the gateway has answered it for good. Each append is
fsynced before it counts. A last line without its end was never acknowledged to anyone and is cut off. When most of the
file is done, what waits is written anew beside it and takes its place.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from .types import Scan

#: Done lines from which on the file is written anew, if they are more than what waits.
DONE_LINES_MAX = 1000


class Full(Exception):
    """As many scans wait as may."""


class InUse(Exception):
    """Another process has this queue."""


class Damaged(Exception):
    """A line in the middle is none of the queue's."""


class Queue:
    """Scans that wait, oldest first; at most `scans_max`, some 300 bytes each, on disk and in memory."""

    def __init__(self, path: str | os.PathLike[str], scans_max: int) -> None:
        self._path, self._scans_max = Path(path), scans_max
        self._lock = os.open(f"{self._path}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise InUse(f"{self._path} is in use by another process") from error
        self._file = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600)
        self._sync_directory()
        self._waiting: dict[str, bytes] = {}
        self._done = 0
        text = self._path.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            os.ftruncate(self._file, whole)
            os.fsync(self._file)
        for number, line in enumerate(text[:whole].splitlines(keepends=True), 1):
            try:
                read = json.loads(line)
                if "done" in read:
                    self._done += 1
                    self._waiting.pop(read["done"], None)
                else:
                    self._waiting[read["id"]] = line
            except (ValueError, KeyError, TypeError) as error:
                raise Damaged(f"line {number} of {self._path} can't be read") from error

    def push(self, scan: Scan) -> None:
        """Takes a scan in. It is on disk when this returns. One whose id waits already is the same one."""
        if scan.id in self._waiting:
            return
        if len(self._waiting) >= self._scans_max:
            raise Full(f"{self._scans_max} scans wait already, as many as may")
        line = scan.line()
        self._append(line)
        self._waiting[scan.id] = line

    def __len__(self) -> int:
        return len(self._waiting)

    def oldest(self, lines_max: int, bytes_max: int) -> dict[str, bytes]:
        """The oldest, so many and so long together at most, but one in any case."""
        taken: dict[str, bytes] = {}
        size = 0
        for id, line in self._waiting.items():
            size += len(line)
            if taken and (len(taken) >= lines_max or size > bytes_max):
                break
            taken[id] = line
        return taken

    def settle(self, ids: Iterable[str]) -> None:
        """Lets those go that have been answered for good."""
        ids = list(ids)
        if not ids:
            return
        self._append(b"".join(json.dumps({"done": id}, separators=(",", ":")).encode() + b"\n" for id in ids))
        for id in ids:
            self._waiting.pop(id, None)
        self._done += len(ids)
        if self._done >= DONE_LINES_MAX and self._done > len(self._waiting):
            self._write_anew()

    def close(self) -> None:
        """Lets another process have the queue."""
        os.close(self._file)
        os.close(self._lock)

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _append(self, lines: bytes) -> None:
        before = os.fstat(self._file).st_size
        try:
            written = 0
            while written < len(lines):
                written += os.write(self._file, lines[written:])
            os.fsync(self._file)
        except OSError:
            # Half a line must not stand before the next one. If this fails too, the next start cuts it off.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, before)
            raise

    def _write_anew(self) -> None:
        beside = Path(f"{self._path}.new")
        with beside.open("wb") as file:
            file.writelines(self._waiting.values())
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
        self._sync_directory()
        os.close(self._file)
        self._file = os.open(self._path, os.O_RDWR | os.O_APPEND)
        self._done = 0

    def _sync_directory(self) -> None:
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
