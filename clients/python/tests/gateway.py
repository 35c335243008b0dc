"""The gateway itself, as a child process on free ports of loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from scangate_client import Client

ROOT = Path(__file__).resolve().parents[3]
BINARY = ROOT / os.environ.get("SCANGATE_BIN", "target/debug/scangate")


class Gateway:
    def __init__(self, **settings: str) -> None:
        self.directory = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.settings = settings
        self.ports = []
        for _ in range(2):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.ports.append(free.getsockname()[1])
        self.base = f"http://127.0.0.1:{self.ports[0]}"
        self.path = Path(self.directory.name)
        self.start()

    def start(self) -> None:
        listen, admin = (f"127.0.0.1:{port}" for port in self.ports)
        self.process = subprocess.Popen(
            self.command("serve", "--listen", listen, "--admin", admin),
            env=os.environ | self.settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.base}/readyz", timeout=5).close()
                return
            except OSError as error:
                if self.process.poll() is not None:
                    raise RuntimeError("the gateway did not start") from error
                time.sleep(0.05)
        raise RuntimeError("the gateway is not ready after 30 s")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        self.directory.cleanup()

    def command(self, *arguments: str) -> list[str]:
        return [str(BINARY), *arguments, "--data-dir", str(self.path / "data")]

    def run(self, *arguments: str) -> str:
        return subprocess.run(
            self.command(*arguments), env=os.environ | self.settings, check=True, capture_output=True, text=True
        ).stdout

    def client(self) -> Client:
        return Client(self.base, self.run("issue", "device", "--place", "hn-0001").strip(), timeout_s=10)

    def rows(self) -> int:
        return len(self.run("export", "--from", "2020-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00Z").splitlines())
