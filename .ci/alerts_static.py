"""Holds rules, dashboard, runbooks and the gateway's own metrics to each other, in both directions.

    alerts_static.py METRICS    METRICS: what /metrics of a running gateway answered
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RULES = (ROOT / "deploy/prometheus/rules/scangate.yml").read_text()
TESTS = "".join(path.read_text() for path in sorted((ROOT / "deploy/prometheus/tests").glob("*.yml")))
DASHBOARD = (ROOT / "deploy/grafana/dashboards/scangate.json").read_text()
RUNBOOKS = (ROOT / "docs/runbooks.md").read_text()

# What a metric is followed by in a name that is asked for.
SAMPLES = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "info": ["_info"], "gauge": [""]}

SECTION_PARTS = ["Means", "Costs", "Look at", "Do", "Escalate"]


def exported(metrics):
    """Sample name to metric, for every metric that /metrics describes, whether it has a sample now or not."""
    found = {}
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", metrics, re.MULTILINE):
        for suffix in SAMPLES[kind]:
            found[name + suffix] = name
    return found


def asked_for(text):
    # A recorded series has colons and isn't the gateway's.
    return set(re.findall(r"(?<![:\w])scangate_\w+", text))


def metric_names(metrics, rules, dashboard):
    names, problems = exported(metrics), []
    expressions = "\n".join(expressions_of(json.loads(dashboard)))
    for place, text in (("rules", rules), ("dashboard", expressions)):
        problems += [f"{place}: the gateway has no {name}" for name in sorted(asked_for(text) - set(names))]
    shown = {names[name] for name in asked_for(expressions) if name in names}
    problems += [f"dashboard: {name} isn't shown" for name in sorted(set(names.values()) - shown)]
    recorded = set(re.findall(r"- record: (\S+)", rules))
    for place, text in (("rules", re.sub(r"- record: \S+", "", rules)), ("dashboard", expressions)):
        used = set(re.findall(r"\bjob\w*:[\w:]+", text))
        problems += [f"{place}: {name} isn't recorded" for name in sorted(used - recorded)]
        recorded_used = recorded & used
        if place == "rules":
            used_in_rules = recorded_used
    problems += [f"rules: {name} is recorded for nobody" for name in sorted(recorded - used_in_rules - used)]
    return problems, f"{len(set(names.values()))} metrics of the gateway's, all on the dashboard"


def label_values(metrics, rules, dashboard):
    """Label values that are asked for by name must be ones that the gateway exports."""
    problems, count = [], 0
    known = {}
    for label, value in re.findall(r'(\w+)="([^"]*)"', metrics):
        known.setdefault(label, set()).add(value)
    text = rules + "\n" + "\n".join(expressions_of(json.loads(dashboard)))
    for label, operator, value in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"$]*)"', text):
        if label in ("job", "instance", "severity"):
            continue
        for one in value.split("|"):
            count += 1
            if one not in known.get(label, set()):
                problems.append(f'the gateway has no {label}="{one}" ({operator})')
    return problems, f"{count} label values"


def expressions_of(dashboard):
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]


def panels(dashboard):
    board, problems, ids = json.loads(dashboard), [], []
    for panel in board["panels"]:
        ids.append(panel["id"])
        if panel["type"] == "row":
            continue
        title = panel["title"]
        if not panel.get("description"):
            problems.append(f"panel {title!r} has no description")
        if not panel["fieldConfig"]["defaults"].get("unit"):
            problems.append(f"panel {title!r} has no unit")
        if not panel.get("targets") or not all(target.get("expr") for target in panel.get("targets", [])):
            problems.append(f"panel {title!r} asks for nothing")
        if panel.get("datasource", {}).get("uid") != "${datasource}":
            problems.append(f"panel {title!r} has a data source of its own")
        for target in panel.get("targets", []):
            if re.search(r"\brate\([^)]*\[(?!\$__rate_interval\])", target["expr"]):
                problems.append(f"panel {title!r} has a rate over a window of its own")
    problems += [f"panel id {one} is there twice" for one in {one for one in ids if ids.count(one) > 1}]
    boxes = [panel["gridPos"] for panel in board["panels"]]
    for index, one in enumerate(boxes):
        for other in boxes[index + 1 :]:
            apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            apart = apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
            if not apart:
                problems.append(f"two panels overlap at {one}")
    return problems, f"{len(ids)} panels and rows"


def runbooks(rules, pages, tests):
    problems = []
    blocks = re.split(r"\n      - (?=alert:|record:)", rules)
    alerts = {}
    for block in blocks:
        if match := re.match(r"alert: (\w+)", block):
            alerts[match[1]] = block
    sections = dict(re.findall(r"^## (Scangate\w+)\n(.*?)(?=^## |\Z)", pages, re.MULTILINE | re.DOTALL))
    problems += [f"runbooks: no section for {name}" for name in alerts if name not in sections]
    problems += [f"runbooks: there is no alert {name}" for name in sections if name not in alerts]
    for name, section in sections.items():
        problems += [f"runbooks: {name} lacks **{part}**" for part in SECTION_PARTS if f"**{part}.**" not in section]
    for name, block in alerts.items():
        if not re.search(rf"runbook_url: \S+/docs/runbooks\.md#{name.lower()}$", block, re.MULTILINE):
            problems.append(f"rules: {name} doesn't link its section")
        if not re.search(r"severity: (page|ticket)}", block):
            problems.append(f"rules: {name} has neither severity page nor ticket")
        for part in ("summary: ", "description: "):
            if part not in block:
                problems.append(f"rules: {name} has no {part.strip(': ')}")
        if f'alertname="{name}"' not in tests:
            problems.append(f"tests: {name} is never expected to fire")
    return problems, f"{len(alerts)} alerts, each with its section and its test"


def check(metrics, rules=RULES, dashboard=DASHBOARD, pages=RUNBOOKS, tests=TESTS):
    results = [
        metric_names(metrics, rules, dashboard),
        label_values(metrics, rules, dashboard),
        panels(dashboard),
        runbooks(rules, pages, tests),
    ]
    return [one for found, _ in results for one in found], [said for _, said in results]


def self_test(metrics):
    """Each kind of mistake, made on purpose, is found."""
    mistakes = {
        "a metric that is gone": dict(metrics=metrics.replace("scangate_ready ", "scangate_willing ")),
        "a metric that nobody shows": dict(metrics=metrics + "# TYPE scangate_new gauge\n"),
        "an outcome that is gone": dict(metrics=metrics.replace('outcome="clock_skew"', 'outcome="skew"')),
        "a panel without unit": dict(dashboard=DASHBOARD.replace('"unit": "percentunit"', '"unit": ""', 1)),
        "a panel's id twice": dict(dashboard=re.sub(r'"id": 3,', '"id": 2,', DASHBOARD, count=1)),
        "an alert without section": dict(pages=RUNBOOKS.replace("## ScangateDown\n", "## ScangateUp\n")),
        "a section without action": dict(pages=RUNBOOKS.replace("**Do.**", "**Hope.**", 1)),
        "an alert without test": dict(tests=TESTS.replace('"ScangateReloadFailed"', '"ScangateOther"')),
        "a series that isn't recorded": dict(rules=RULES.replace("record: job:scangate_scans:rate30m", "record: job:x:y")),
    }
    for mistake, changed in mistakes.items():
        if not check(**{"metrics": metrics, **changed})[0]:
            raise AssertionError(f"{mistake} passed")
    return len(mistakes)


def main():
    metrics = Path(sys.argv[1]).read_text()
    problems, said = check(metrics)
    for problem in problems:
        print(f"alerts: {problem}", file=sys.stderr)
    if not problems:
        said.append(f"{self_test(metrics)} mistakes made on purpose were found")
    print("; ".join(said))
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
