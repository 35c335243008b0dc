"""One request at a time."""

from __future__ import annotations

import gzip
import http.client
import json
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

from .types import Answer, Scan, answer

#: The longest answer that is read; a batch's 1,000 lines take some 300 KB.
ANSWER_BYTES_MAX = 8 * 1024 * 1024

#: Bodies from here on are compressed.
COMPRESS_BYTES_MIN = 1024


class ClientError(Exception):
    """No answer about a scan. Whatever it is, the scan may be sent again: it is recorded once."""


class Unauthorized(ClientError):
    """The token is missing, expired or revoked. Sending again needs another one."""


class Busy(ClientError):
    """A bound was reached; `retry_after_s` is how long the gateway asks to be left alone."""

    def __init__(self, detail: str, retry_after_s: float | None) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class TooLarge(ClientError):
    """More than the gateway takes in one request."""


class Rejected(ClientError):
    """Any other status: wrong address, wrong type, a gateway of another kind."""


class Transport(ClientError):
    """No answer, or half of one."""


class Client:
    """A gateway and the token of the device that speaks to it."""

    def __init__(self, base: str, token: str, *, timeout_s: float = 30, tls: ssl.SSLContext | None = None) -> None:
        url = urlsplit(base)
        if url.scheme not in ("http", "https") or url.hostname is None:
            raise ValueError("base must be an http or https address")
        self._host, self._port, self._tls = url.hostname, url.port, None
        if url.scheme == "https":
            self._tls = tls or ssl.create_default_context()
        self._token, self._timeout_s = token, timeout_s

    def checkin(self, scan: Scan) -> Answer:
        """Sends one scan and waits until it is on disk, known, or refused."""
        response = self._post("/v1/checkins", "application/json", scan.line())
        body = self._read(response)
        if response.status in (200, 201, 422):
            return answer(_json(body))
        raise _problem(response, body)

    def frame(self, id: str, media_type: str, picture: bytes) -> list[Answer]:
        """Sends a picture (at most 256 KiB); one answer for each code in it."""
        response = self._post(f"/v1/frames?id={quote(id, safe='')}", media_type, picture)
        body = self._read(response)
        if response.status == 422:
            return [answer(_json(body))]
        if response.status != 200:
            raise _problem(response, body)
        return [answer(_json(line)) for line in body.splitlines()]

    def batch(self, body: bytes) -> Iterator[tuple[int, int, Answer]]:
        """Sends lines, each a scan; yields line number (from 1), status and answer as they arrive."""
        response = self._post("/v1/checkins", "application/x-ndjson", body)
        if response.status != 200:
            raise _problem(response, self._read(response))
        for _ in range(body.count(b"\n")):
            try:
                line = response.readline(ANSWER_BYTES_MAX)
            except (OSError, http.client.HTTPException) as error:
                raise Transport("the answer broke off") from error
            # Every line of an answer has its end: without it, it is half a line.
            if not line.endswith(b"\n"):
                raise Transport("the answer broke off")
            read = _json(line)
            yield read["line"], read["status"], answer(read)

    def _post(self, path: str, content_type: str, body: bytes) -> http.client.HTTPResponse:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": content_type}
        if len(body) >= COMPRESS_BYTES_MIN and "json" in content_type:
            body, headers["Content-Encoding"] = gzip.compress(body, 1), "gzip"
        connection: http.client.HTTPConnection
        if self._tls is not None:
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=self._tls)
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        try:
            # One request a connection, which the response holds until it is read.
            connection.request("POST", path, body, headers | {"Connection": "close"})
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Transport("no answer from the gateway") from error

    @staticmethod
    def _read(response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read(ANSWER_BYTES_MAX)
        except (OSError, http.client.HTTPException) as error:
            raise Transport("the answer broke off") from error


def _json(text: bytes) -> dict[str, Any]:
    try:
        read = json.loads(text)
    except ValueError as error:
        raise Transport("the answer can't be read") from error
    if not isinstance(read, dict):
        raise Transport("the answer can't be read")
    return read


def _problem(response: http.client.HTTPResponse, body: bytes) -> ClientError:
    """What a status means that says nothing of a scan."""
    try:
        detail = str(_json(body).get("detail"))
    except Transport:
        detail = f"status {response.status}"
    if response.status in (401, 403):
        return Unauthorized(detail)
    if response.status == 413:
        return TooLarge(detail)
    if response.status in (408, 429) or response.status >= 500:
        after = response.headers.get("Retry-After", "")
        return Busy(detail, float(after) if after.isdecimal() else None)
    return Rejected(f"{response.status}: {detail}")
