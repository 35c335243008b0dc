"""Provokes every alert of deploy/prometheus/rules on running gateways, scraped by a real Prometheus.

The rules are the ones that are deployed, with one change: their durations (ranges, offsets, `for`) are shortened by the table
SHORTENED, which keeps their order. Every gateway is a site of its own, so it must fire the alerts of its scenario and none but
those; one is only used as it is meant, and must fire none at all. What ends quickly must end.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

from alerts_gateway import Codes, Frames, Gateway, Traffic, free_port, unverified

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "deploy/prometheus/rules/scangate.yml"

# What each duration of the rules becomes, in seconds.
SHORTENED = {
    "1m": 2, "2m": 3, "5m": 6, "10m": 7, "15m": 8, "30m": 12, "1h": 14,
    "2h": 16, "6h": 20, "1d": 38, "26h": 40, "3d": 42,
}  # fmt: skip

# No wait may be longer: whatever has not come by then is reported as missing.
ENDS_AFTER_S = float(os.environ.get("SCANGATE_ALERTS_S", "105"))

DURATION = r"(\d+(?:ms|[smhdwy]))"


def shortened(rules):
    """The rules with their durations shortened; a duration that the table doesn't have is an error."""

    def ranges(match):
        return f"{match[1]}{SHORTENED[match[2]]}s{match[3]}"

    rules = re.sub(rf"(\[){DURATION}(\])", ranges, rules)
    rules = re.sub(rf"(\boffset ){DURATION}()", ranges, rules)
    return re.sub(rf"(\n +for: ){DURATION}()", ranges, rules)


class Prometheus:
    def __init__(self, directory):
        self.directory, self.port = directory / "prometheus", free_port()
        self.process, self.firing = None, set()
        self.changed, self.ended = threading.Condition(), threading.Event()
        self.began = 0.0

    def start(self, gateways):
        self.directory.mkdir()
        (self.directory / "rules.yml").write_text(shortened(RULES.read_text()))
        lines = ["global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}"]
        lines += ["rule_files: [rules.yml]", "scrape_configs:"]
        for gateway in gateways:
            lines.append(f"  - job_name: {gateway.job}")
            lines.append(f"    static_configs: [{{targets: ['127.0.0.1:{gateway.admin}']}}]")
        (self.directory / "prometheus.yml").write_text("\n".join(lines) + "\n")
        command = ["prometheus", f"--config.file={self.directory}/prometheus.yml"]
        command += [f"--storage.tsdb.path={self.directory}/data", f"--web.listen-address=127.0.0.1:{self.port}"]
        with open(self.directory / "log", "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.ask("targets")
                break
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"prometheus: {(self.directory / 'log').read_text()[-2000:]}") from None
                time.sleep(0.1)
        self.began = time.time()
        threading.Thread(target=self._follow, daemon=True).start()

    def ask(self, path, **parameters):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def _follow(self):
        while not self.ended.wait(0.5):
            try:
                found = self.ask("query", query='ALERTS{alertstate="firing"}')["result"]
            except (OSError, ValueError):
                continue
            with self.changed:
                self.firing = {(one["metric"].get("job"), one["metric"]["alertname"]) for one in found}
                self.changed.notify_all()

    def wait(self, job, alerts, firing=True):
        """Until all of `alerts` fire, or none of them does any more; says which still don't, or do."""
        wanted = {(job, alert) for alert in alerts}
        with self.changed:
            while True:
                left = wanted - self.firing if firing else wanted & self.firing
                remaining = self.began + ENDS_AFTER_S - time.time()
                if not left or remaining <= 0:
                    return {alert for _, alert in left}
                self.changed.wait(min(remaining, 1))

    def fired(self):
        """All that has fired since the start, by job."""
        found = self.ask(
            "query_range", query='ALERTS{alertstate="firing"}', start=self.began, end=time.time(), step="1s"
        )
        by_job = {}
        for one in found["result"]:
            by_job.setdefault(one["metric"].get("job", ""), set()).add(one["metric"]["alertname"])
        return by_job

    def targets(self):
        found = self.ask("targets", state="active")["activeTargets"]
        return {one["labels"]["job"]: (one["health"], one["lastError"]) for one in found}


# Scenarios. Each is run in a thread of its own, with its gateway started and ready, and says what must fire and what may.

AVAILABILITY = {"ScangateAvailabilityBurnFast", "ScangateAvailabilityBurnSlow"}
LATENCY = {"ScangateLatencyBurnFast", "ScangateLatencyBurnSlow"}


class Scenario:
    must, may = set(), set()
    settings, environment, mounts = {}, {}, {}

    def __init__(self, prometheus, directory, codes):
        self.prometheus, self.problems = prometheus, []
        name = re.sub(r"(?<!^)(?=[A-Z])", "-", type(self).__name__).lower()
        environment = {key: value.format(directory=directory) for key, value in self.environment.items()}
        self.gateway = Gateway(name, directory, codes, self.settings, environment, self.mounts)

    def fires(self, *alerts):
        for alert in self.prometheus.wait(self.gateway.job, alerts):
            self.problems.append(f"{alert} was provoked and did not fire")

    def ends(self, *alerts):
        for alert in self.prometheus.wait(self.gateway.job, alerts, firing=False):
            self.problems.append(f"{alert} did not end with its cause")

    def history(self):
        """Waits until there is a day before to compare with."""
        time.sleep(SHORTENED["1d"] + SHORTENED["30m"] / 2)

    def fill(self, place, left):
        """Fills the file system of a part of the data directory, but for so many bytes."""
        filler = self.gateway.data / place / "filler"
        free = os.statvfs(filler.parent)
        size = os.path.getsize(filler) if filler.exists() else 0
        with open(filler, "ab") as file:
            os.posix_fallocate(file.fileno(), 0, size + max(free.f_bavail * free.f_frsize - left, 4096))
        return filler


class Healthy(Scenario):
    """A site on an ordinary day: some repetitions, few refusals, frames. The link feed and a reload work, too."""

    settings = {"FRAMES__ENABLED": "true"}

    def run(self):
        mix = ["fresh"] * 9 + ["again"]
        mix = mix * 19 + ["fresh"] * 9 + ["unrecognized"]
        Traffic(self.gateway, mix, per_s=12)
        Frames(self.gateway, self.gateway.codes.picture, 1)
        self.gateway.post_admin("/v1/reload")


class Disk(Scenario):
    must = AVAILABILITY | {"ScangateJournalDiskFilling", "ScangateJournalFull", "ScangateNotReady"}
    mounts = {"journal": "24m"}

    def run(self):
        traffic = Traffic(self.gateway, ["fresh"])
        filler = self.fill("journal", 600 << 10)
        self.fires("ScangateJournalDiskFilling")
        self.fill("journal", 0)
        traffic.mix = ["batch 300", "fresh"]
        self.fires("ScangateJournalFull", "ScangateNotReady", *AVAILABILITY)
        filler.unlink()
        traffic.mix = ["fresh"]
        self.ends("ScangateJournalFull", "ScangateNotReady", "ScangateJournalDiskFilling")


class Fsync(Scenario):
    must = AVAILABILITY | LATENCY | {"ScangateJournalCommitSlow", "ScangateJournalPoisoned", "ScangateNotReady"}
    environment = {"LD_PRELOAD": "{directory}/faults.so", "SCANGATE_FAULTS": "{directory}/fsync"}

    def run(self):
        Traffic(self.gateway, ["fresh"])
        Traffic(self.gateway, ["fresh"])
        slow = self.gateway.directory / "slow"
        slow.touch()
        self.fires("ScangateJournalCommitSlow", *LATENCY)
        slow.unlink()
        self.ends("ScangateJournalCommitSlow", "ScangateLatencyBurnFast")
        (self.gateway.directory / "fail").touch()
        self.fires("ScangateJournalPoisoned", "ScangateNotReady", *AVAILABILITY)


class Store(Scenario):
    must = {"ScangateStoreRetrying", "ScangateStoreLagging", "ScangateJournalBoundNear"}
    settings = {"JOURNAL__BYTES_MAX": 4 << 20}
    mounts = {"store": "96m", "": "8m", "journal": "64m", "identity": "96m"}

    def run(self):
        Traffic(self.gateway, ["batch 20"], per_s=5)
        filler = self.fill("", 0)
        self.fires(*self.must)
        filler.unlink()
        self.ends("ScangateStoreRetrying", "ScangateStoreLagging")


class Expired(Scenario):
    must = {"ScangateRefusalsJumped"}

    def run(self):
        traffic = Traffic(self.gateway, ["fresh"])
        self.history()
        traffic.mix = ["fresh", "expired"]
        self.fires(*self.must)


class Signatures(Scenario):
    must = {"ScangateSignaturesRefused"}

    def run(self):
        traffic = Traffic(self.gateway, ["fresh"] * 8 + ["bad_signature", "unknown_key"])
        self.fires(*self.must)
        traffic.mix = ["fresh"]
        self.ends(*self.must)


class ClockSkew(Scenario):
    must = {"ScangateClockSkewRefused"}

    def run(self):
        traffic = Traffic(self.gateway, ["fresh"] * 8 + ["clock_skew"])
        self.fires(*self.must)
        traffic.mix = ["fresh"]
        self.ends(*self.must)


class Duplicates(Scenario):
    must = {"ScangateDuplicatesHigh"}

    def run(self):
        Traffic(self.gateway, ["fresh", "again", "again"])
        self.fires(*self.must)


class DuplicatesGone(Scenario):
    must = {"ScangateDuplicatesLow"}

    def run(self):
        traffic = Traffic(self.gateway, ["fresh"] * 3 + ["again"])
        self.history()
        traffic.mix = ["fresh"]
        self.fires(*self.must)


class Rate(Scenario):
    must = {"ScangateDevicesRateLimited", "ScangateLinkFeedStale"}
    settings = {
        "LIMITS__DEVICE_SCANS_PER_S": 1,
        "LIMITS__DEVICE_SCANS_BURST": 10,
        "LIMITS__BATCH_LINES_MAX": 10,
    }

    def run(self):
        Traffic(self.gateway, ["fresh"])
        self.fires(*self.must)


class Tokens(Scenario):
    must = {"ScangateTokensRefused"}

    def run(self):
        Traffic(self.gateway, ["fresh"])
        refused = Traffic(self.gateway, ["fresh"], per_s=2, token=self.gateway.codes.token[:-8] + "AAAAAAAA")
        self.fires(*self.must)
        refused.ended.set()
        self.ends(*self.must)


class Frame(Scenario):
    """More frames than are read: shed, while check-ins and their objectives feel nothing."""

    must = {"ScangateFramesShed"}
    # A scrape between the count of a shed frame's outcome and that of its request sees one too many: a share of seconds,
    # and none of the hours that the rules look at.
    may = {"ScangateAvailabilityBurnSlow"}
    settings = {"FRAMES__ENABLED": "true", "FRAMES__WORKERS": 1, "FRAMES__QUEUE_FRAMES_MAX": 1}

    def run(self):
        Traffic(self.gateway, ["fresh"])
        senders = [Frames(self.gateway, self.gateway.codes.picture, 0) for _ in range(12)]
        self.fires(*self.must)
        for sender in senders:
            sender.ended.set()


class FrameProcesses(Scenario):
    must = {"ScangateFrameProcessesDying"}
    settings = {"FRAMES__ENABLED": "true", "FRAMES__WORKERS": 1}

    def run(self):
        Traffic(self.gateway, ["fresh"])
        Frames(self.gateway, self.gateway.codes.picture, 0.2)
        ended = time.monotonic() + 30
        while time.monotonic() < ended and (self.gateway.job, *self.must) not in self.prometheus.firing:
            for child in self.gateway.children():
                os.kill(child, 9)
            time.sleep(0.6)
        self.fires(*self.must)


class FramesRefused(Scenario):
    must = {"ScangateFramesUnavailable"}
    settings = {"FRAMES__ENABLED": "true"}
    environment = {"LD_PRELOAD": "{directory}/faults.so", "SCANGATE_FAULTS_NO_SPAWN": "1"}

    def run(self):
        Traffic(self.gateway, ["fresh"])
        Frames(self.gateway, self.gateway.codes.picture, 0.5)
        self.fires(*self.must)


class Workers(Scenario):
    """Never-seen signatures from many devices at once; that they are bad ones is told as well."""

    must = AVAILABILITY | {"ScangateWorkersOverloaded"}
    may = {"ScangateSignaturesRefused"}
    settings = {"WORKERS__QUEUE_JOBS_MAX": 1}

    def run(self):
        for _ in range(8):
            Traffic(self.gateway, ["bad_signature"] * 3 + ["fresh"], per_s=40)
        self.fires(*self.must)


class Bounds(Scenario):
    """What stands in the configuration or the calendar: connections, remembered scans, certificate, keys, feed."""

    must = {
        "ScangateCertificateExpiring",
        "ScangateConnectionsRefused",
        "ScangateDeduplicateNearBound",
        "ScangateLinkFeedStale",
        "ScangateReloadFailed",
    }
    settings = {
        "LISTEN__CONNECTIONS_MAX": 4,
        "DEDUPLICATE__ENTRIES_MAX": 1000,
    }

    def __init__(self, prometheus, directory, codes):
        super().__init__(prometheus, directory, codes)
        certificate, key = self.gateway.directory / "cert.pem", self.gateway.directory / "key.pem"
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 10 -subj /CN=localhost"
        command = [*command.split(), "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(command, check=True, capture_output=True)
        self.gateway.environment["SCANGATE_TLS__CERTIFICATE_FILE"] = str(certificate)
        self.gateway.environment["SCANGATE_TLS__KEY_FILE"] = str(key)
        self.gateway.tls = unverified()

    def run(self):
        gateway = self.gateway
        token = (gateway.data / "keys/feed-token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/x-ndjson"}
        line = b'{"citizen":"001093029317","qid":"162979388586171100"}\n'
        status, answer = gateway.post_admin("/v1/links?source=registry&cursor=1", line, headers)
        if status != 200:
            self.problems.append(f"the feed's batch was answered {status}: {answer!r}")
        connection = gateway.connect()
        while gateway.metric("scangate_deduplicate_entries") < 870:
            gateway.post(connection, gateway.batch(20), "application/x-ndjson")
        bad = gateway.data / "keys/sg1/0000000000000000.json"
        bad.write_text("no key")
        bad.chmod(0o600)
        gateway.post_admin("/v1/reload")
        held, ended = [], threading.Event()

        def crowd():
            while not ended.wait(0.2):
                held.append(socket.create_connection(("127.0.0.1", gateway.public)))
                del held[:-12]

        crowded = threading.Thread(target=crowd)
        crowded.start()
        self.fires("ScangateConnectionsRefused", "ScangateReloadFailed")
        ended.set()
        crowded.join()
        bad.unlink()
        gateway.post_admin("/v1/reload")
        self.ends("ScangateConnectionsRefused", "ScangateReloadFailed")
        self.fires(*self.must - {"ScangateConnectionsRefused", "ScangateReloadFailed"})


class Restarts(Scenario):
    must = {"ScangateRestarting", "ScangateDown"}

    def run(self):
        ended = time.monotonic() + 40
        # Long enough for a scrape to see each of them grow older than the next one's first.
        while time.monotonic() < ended and (self.gateway.job, "ScangateRestarting") not in self.prometheus.firing:
            time.sleep(1.6)
            self.gateway.stop()
            self.gateway.start()
            self.gateway.wait_ready()
        self.fires("ScangateRestarting")
        self.gateway.stop()
        self.fires("ScangateDown")
        self.gateway.start()
        self.ends("ScangateDown")


SCENARIOS = [
    Healthy, Expired, DuplicatesGone, Bounds, Disk, Fsync, Store, Signatures, ClockSkew, Duplicates, Rate, Tokens,
    Frame, FrameProcesses, FramesRefused, Workers, Restarts,
]  # fmt: skip


def verdicts(scenarios, fired, rules):
    """What is wrong: an alert that didn't fire where it was provoked, one that fired where it wasn't, one never provoked."""
    problems, provoked = [], set()
    for job, must, may in scenarios:
        got = fired.get(job, set())
        provoked |= must & got
        problems += [f"{job}: {alert} did not fire" for alert in sorted(must - got)]
        problems += [f"{job}: {alert} fired and wasn't provoked" for alert in sorted(got - must - may)]
    problems += [f"{alert} is never provoked" for alert in sorted(rules - provoked)]
    return problems


class Stalls(threading.Thread):
    """How long this machine has left a thread waiting that had nothing to do but wake up."""

    def __init__(self):
        super().__init__(daemon=True)
        self.ended, self.seconds = threading.Event(), 0.0
        self.start()

    def run(self):
        while not self.ended.is_set():
            began = time.monotonic()
            self.ended.wait(0.05)
            late = time.monotonic() - began - 0.05
            # The objective's own limit: what was answered meanwhile was late for want of a processor.
            if late > 0.268:
                self.seconds += late


def self_test():
    """The verdicts can be bad ones, and the table of durations must be whole."""
    rules, site = {"A", "B"}, [("one", {"A"}, {"C"}), ("two", {"B"}, set())]
    assert verdicts(site, {"one": {"A", "C"}, "two": {"B"}}, rules) == []
    assert len(verdicts(site, {"one": {"A"}}, rules)) == 2
    assert len(verdicts(site, {"one": {"A", "B"}, "two": {"B"}}, rules)) == 1
    assert len(verdicts(site, {"one": {"A"}, "two": {"B"}}, rules | {"D"})) == 1
    assert shortened("x[5m] offset 1d\n  for: 1h\n") == "x[6s] offset 38s\n  for: 14s\n"
    try:
        shortened("x[7m]")
    except KeyError:
        return
    raise AssertionError("a duration that isn't in the table passed")


def main():
    self_test()
    # What else runs on the machine must not make a gateway slow that is meant to be sound.
    with contextlib.suppress(PermissionError):
        os.nice(-15)
    # Told to stop, it still stops what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    began = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="scangate-alerts-"))
    prometheus = Prometheus(directory)
    scenarios = []
    try:
        command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(directory / "faults.so")]
        subprocess.run([*command, str(ROOT / ".ci/alerts_faults.c"), "-ldl"], check=True)
        codes = Codes(directory)
        wanted = set(sys.argv[1:])
        for kind in SCENARIOS:
            if not wanted or kind.__name__ in wanted:
                scenarios.append(kind(prometheus, directory, codes))
        for scenario in scenarios:
            scenario.gateway.start()
        for scenario in scenarios:
            scenario.gateway.wait_ready()
        started = time.monotonic() - began
        stalls = Stalls()
        prometheus.start([scenario.gateway for scenario in scenarios])
        problems = provoke(scenarios)
        # An evaluation of the rules, so that the last alert to fire is among what is asked for.
        time.sleep(2)
        stalls.ended.set()
        if stalls.seconds:
            print(f"the machine stalled for {stalls.seconds:.1f} s: slow answers aren't held against it")
            for scenario in scenarios:
                scenario.may = scenario.may | LATENCY
        problems += judge(prometheus, scenarios, partial=bool(wanted))
    finally:
        prometheus.ended.set()
        for scenario in scenarios:
            scenario.gateway.stop()
        if prometheus.process:
            prometheus.process.kill()
            prometheus.process.wait()
        for scenario in scenarios:
            subprocess.run(["umount", "--recursive", "--lazy", str(scenario.gateway.data)], check=False)
        shutil.rmtree(directory, ignore_errors=True)
    for problem in problems:
        print(f"alerts: {problem}", file=sys.stderr)
    took = time.monotonic() - began
    print(f"{len(scenarios)} gateways, up after {started:.0f} s; {len(problems)} problems; {took:.0f} s in all")
    sys.exit(1 if problems else 0)


def provoke(scenarios):
    problems = []

    def run(scenario):
        try:
            scenario.run()
        except Exception as error:  # A scenario that breaks is a problem of this check, and must be seen as one.
            scenario.problems.append(f"broke off: {error!r}")

    threads = [threading.Thread(target=run, args=[scenario], daemon=True) for scenario in scenarios]
    for thread in threads:
        thread.start()
    for scenario, thread in zip(scenarios, threads):
        thread.join(timeout=ENDS_AFTER_S + 20)
        problems += [f"{scenario.gateway.job}: {problem}" for problem in scenario.problems]
        if thread.is_alive():
            problems.append(f"{scenario.gateway.job}: hangs")
    return problems


def judge(prometheus, scenarios, partial):
    rules = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    fired = prometheus.fired()
    for scenario in scenarios:
        print(f"{scenario.gateway.name:16} {', '.join(sorted(fired.get(scenario.gateway.job, set()))) or 'nothing'}")
    asked = [(scenario.gateway.job, scenario.must, scenario.may) for scenario in scenarios]
    problems = verdicts(asked, fired, set() if partial else rules)
    failing = [f"{job}: {error}" for job, (health, error) in prometheus.targets().items() if health != "up"]
    broken = [
        f"rule {rule['name']}: {rule['lastError']}"
        for group in prometheus.ask("rules")["groups"]
        for rule in group["rules"]
        if rule["health"] == "err"
    ]
    if not partial:
        shown, empty = dashboard(prometheus)
        print(f"{shown} expressions of the dashboard's answered")
        problems += empty
    print(f"{len(set().union(*fired.values()) & rules)} of {len(rules)} alerts fired")
    return problems + failing + broken


def dashboard(prometheus):
    """Asks what the dashboard's panels ask: each must be PromQL, and have an answer after all that was provoked."""
    board = json.loads((ROOT / "deploy/grafana/dashboards/scangate.json").read_text())
    asked, problems = 0, []
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"].replace("$__rate_interval", "60s")
            query = query.replace("$job", ".+").replace("$instance", ".+")
            asked += 1
            try:
                answer = prometheus.ask("query_range", query=query, start=prometheus.began, end=time.time(), step="2s")
            except OSError as error:
                problems.append(f"dashboard: {panel['title']}: {error}")
                continue
            if not answer["result"]:
                problems.append(f"dashboard: {panel['title']}: no answer to {target['expr']}")
    return asked, problems


if __name__ == "__main__":
    main()
