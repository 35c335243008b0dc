"""Gateways to provoke alerts on, each with a data directory of its own in memory, and traffic for them."""

import http.client
import itertools
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

BINARY = os.environ.get("SCANGATE_BIN", "target/release/scangate")

# The specimens of the citizen card and of the personal code.
CARD = "001090123456|012345678|NGUYEN VAN A|01011990|Nam|12 Phố Huế, Hai Bà Trưng, Hà Nội|15042021"
PERSON = "001093029317"

given = set()

BASE45 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:"


def run(*arguments):
    """What a command of the gateway's prints."""
    done = subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"scangate {arguments[0]} {arguments[1]}: {done.stderr}")
    return done.stdout.strip()


def free_port():
    """Below the ports that connections get, or one might take a gateway's while it restarts."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in given:
            given.add(port)
            return port


def base45_decode(text):
    out, values = bytearray(), [BASE45.index(character) for character in text]
    for at in range(0, len(values), 3):
        part = values[at : at + 3]
        number = sum(value * 45**power for power, value in enumerate(part))
        out += number.to_bytes(len(part) - 1, "big")
    return bytes(out)


def base45_encode(data):
    out = ""
    for at in range(0, len(data), 2):
        part = data[at : at + 2]
        number = int.from_bytes(part, "big")
        for _ in range(len(part) + 1):
            out += BASE45[number % 45]
            number //= 45
    return out


class Codes:
    """Keys that all gateways share, and one code of each kind that is refused."""

    def __init__(self, directory):
        self.data, other = directory / "keys-shared", directory / "keys-other"
        for keys in (self.data, other):
            run("keys", "generate", "--data-dir", str(keys))
        self.token = run("issue", "device", "--place", "hn-0001", "--data-dir", str(self.data))
        self.good = run("issue", "person", PERSON, "--data-dir", str(self.data))
        self.foreign = run("issue", "person", PERSON, "--data-dir", str(other))
        self.short = run("issue", "person", PERSON, "--ttl", "1s", "--data-dir", str(self.data))
        drawn = directory / "code.png"
        run("issue", "person", PERSON, "--data-dir", str(self.data), "--png", str(drawn))
        self.picture = drawn.read_bytes()
        self._altered = itertools.count(1)

    def bad_signature(self):
        """The good code with another signature each time, so that no cache knows it."""
        message = bytearray(base45_decode(self.good.removeprefix("SG1:")))
        number = next(self._altered)
        for position in range(4):
            message[-1 - position] ^= (number >> (8 * position)) & 0xFF
        return "SG1:" + base45_encode(bytes(message))


class Gateway:
    """One gateway, scraped as a site of its own."""

    def __init__(self, name, directory, codes, settings=None, environment=None, mounts=None):
        self.name, self.job, self.codes = name, f"scangate-{name}", codes
        self.directory, self.data = directory / name, directory / name / "data"
        self.public, self.admin = free_port(), free_port()
        self.process, self.tls = None, None
        for place, size in {"": "512m", **(mounts or {})}.items():
            mounted = self.data / place
            mounted.mkdir(parents=True, exist_ok=True)
            options = f"size={size},mode=0700"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "scangate", str(mounted)], check=True)
        shutil.copytree(codes.data / "keys", self.data / "keys")
        self.environment = {
            "PATH": os.environ["PATH"],
            "SCANGATE_LISTEN__CORES": "1",
            "SCANGATE_WORKERS__THREADS": "1",
            "SCANGATE_JOURNAL__SEGMENT_BYTES": str(1 << 20),
            "SCANGATE_JOURNAL__LANE_BYTES_MAX": str(256 << 10),
            "SCANGATE_JOURNAL__BATCH_BYTES_MAX": str(64 << 10),
            # One specimen makes as many check-ins as are wanted; what is sent again is still a duplicate.
            "SCANGATE_DEDUPLICATE__WINDOW_S": "0",
            "SCANGATE_LIMITS__DEVICE_SCANS_PER_S": "0",
            "SCANGATE_VERIFY__ROTATING_SKEW_S": "0",
            "SCANGATE_FRAMES__ENABLED": "false",
            # Seventeen gateways on two cores: a reader that waits for a processor must not count as one that hangs.
            "SCANGATE_FRAMES__PRIORITY": "low",
            "SCANGATE_FRAMES__WAIT_MS_MAX": "8000",
            "SCANGATE_FRAMES__DEADLINE_MS": "9000",
            "SCANGATE_FRAMES__DEVICE_MS_PER_S": "0",
            "SCANGATE_LOG__LEVEL": "warn",
            **{f"SCANGATE_{key}": str(value) for key, value in (settings or {}).items()},
            **(environment or {}),
        }
        # Frames have numbers of their own: a scan's time follows from its number, and thousands of frames a second are shed.
        self.frame_number = itertools.count(1)
        self._number, self._first_at = itertools.count(1), time.time() - 46 * 3600
        self._last = None

    def start(self):
        command = [BINARY, "serve", "--data-dir", str(self.data)]
        command += ["--listen", f"127.0.0.1:{self.public}", "--admin", f"127.0.0.1:{self.admin}"]
        if self.name == "rate":
            # One has the services and registers to follow, so that their part of the dashboard has answers.
            command += ["--demo", "--services", f"127.0.0.1:{free_port()}"]
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def wait_ready(self, seconds=60):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                if self.get("/readyz")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise RuntimeError(f"{self.name} isn't ready:\n{(self.directory / 'log').read_text()[-2000:]}")

    def stop(self, sent=signal.SIGKILL):
        if self.process and self.process.poll() is None:
            self.process.send_signal(sent)
            self.process.wait(timeout=60)

    def children(self):
        """Its processes that read frames."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(") ", 1)[1].split()
            except (OSError, IndexError):
                continue
            if int(fields[1]) == self.process.pid and fields[0] != "Z":
                found.append(int(stat.parent.name))
        return found

    # Requests.

    def get(self, path):
        return self._request(http.client.HTTPConnection("127.0.0.1", self.admin, timeout=20), "GET", path)

    def post_admin(self, path, body=b"", headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=20)
        return self._request(connection, "POST", path, body, headers or {})

    def metric(self, name):
        for line in self.get("/metrics")[1].decode().splitlines():
            if line.startswith(name + " "):
                return float(line.rsplit(" ", 1)[1])
        raise KeyError(name)

    def connect(self):
        """A connection for many requests."""
        if self.tls:
            return http.client.HTTPSConnection("127.0.0.1", self.public, timeout=20, context=self.tls)
        return http.client.HTTPConnection("127.0.0.1", self.public, timeout=20)

    def post(self, connection, body, kind="application/json", path="/v1/checkins", token=None):
        headers = {"Authorization": f"Bearer {token or self.codes.token}", "Content-Type": kind}
        return self._request(connection, "POST", path, body, headers, keep=True)

    @staticmethod
    def _request(connection, method, path, body=None, headers=None, keep=False):
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise OSError(str(error)) from error
        finally:
            if not keep:
                connection.close()

    # Scans.

    def scan(self, kind):
        """One check-in as JSON: `fresh`, `again`, or one that is refused as `kind`."""
        if kind == "again" and self._last:
            return self._last
        number = next(self._number)
        at, code = self._first_at + 2 * number, CARD
        if kind == "expired":
            at, code = time.time() - 0.2, self.codes.short
        elif kind == "unknown_key":
            code = self.codes.foreign
        elif kind == "bad_signature":
            code = self.codes.bad_signature()
        elif kind == "clock_skew":
            at = time.time() + 3600
        elif kind == "unrecognized":
            code = "no code"
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03d}Z"
        body = json.dumps({"id": f"s-{number}", "qr": code, "at": stamp, "direction": "in"}).encode()
        if kind == "fresh":
            self._last = body
        return body

    def batch(self, lines):
        return b"\n".join(self.scan("fresh") for _ in range(lines))


class Traffic(threading.Thread):
    """Check-ins at a steady pace, of the kinds that `mix` names over and over."""

    def __init__(self, gateway, mix, per_s=10, token=None):
        super().__init__(daemon=True)
        self.gateway, self.mix, self.per_s, self.token = gateway, mix, per_s, token
        self.ended = threading.Event()
        self.start()

    def run(self):
        connection, turn = self.gateway.connect(), 0
        while not self.ended.wait(1 / self.per_s):
            mix = self.mix
            kind, turn = mix[turn % len(mix)], turn + 1
            try:
                if kind.startswith("batch "):
                    body, content = self.gateway.batch(int(kind.split()[1])), "application/x-ndjson"
                else:
                    body, content = self.gateway.scan(kind), "application/json"
                self.gateway.post(connection, body, content, token=self.token)
            except OSError:
                connection = self.gateway.connect()


class Frames(threading.Thread):
    """Camera frames, one after the other."""

    def __init__(self, gateway, picture, pause_s):
        super().__init__(daemon=True)
        self.gateway, self.picture, self.pause_s = gateway, picture, pause_s
        self.ended = threading.Event()
        self.start()

    def run(self):
        connection = self.gateway.connect()
        while not self.ended.wait(self.pause_s):
            path = f"/v1/frames?id=f-{next(self.gateway.frame_number)}"
            try:
                self.gateway.post(connection, self.picture, "image/png", path)
            except OSError:
                connection = self.gateway.connect()


def unverified():
    """The certificate's end is looked at, not who signed it."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
