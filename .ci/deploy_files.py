#!/usr/bin/env python3
"""What no schema knows of deploy/: relations between its files, and to what a running gateway says.

    deploy_files.py compose COMPOSE.yaml
    deploy_files.py chart MANIFESTS.yaml METRICS OPENAPI.json TOML_OUT

Exits with 1 and a line for each complaint. The second writes the chart's scangate.toml to TOML_OUT.
"""

import json
import pathlib
import sys

import yaml

complaints = []


def must(condition, complaint):
    if not condition:
        complaints.append(complaint)


def compose(path):
    directory = pathlib.Path(path).parent
    with open(path, encoding="utf-8") as file:
        project = yaml.safe_load(file)
    services, volumes, networks = project["services"], project["volumes"], project["networks"]
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                must((directory / source).exists(), f"{name}: there is no {source}")
            else:
                must(source in volumes, f"{name}: there is no volume {source}")
        for network in service.get("networks", []):
            must(network in networks, f"{name}: there is no network {network}")
        for dependency in service.get("depends_on", {}):
            must(dependency in services, f"{name}: there is no service {dependency}")
        for option in service.get("security_opt", []):
            if option.startswith("seccomp="):
                must((directory / option.removeprefix("seccomp=")).exists(), f"{name}: there is no {option}")
        if "build" not in service:
            tag = service["image"].rpartition("/")[2].partition(":")[2]
            must(tag not in ("", "latest"), f"{name}: {service['image']} is not pinned")
        for port in service.get("ports", []):
            must(port.startswith("127.0.0.1:"), f"{name}: {port} is open to the network")
    gateways = {name: service for name, service in services.items() if service.get("command", [""])[0] == "serve"}
    must(len(gateways) == 2, f"two gateways, not {len(gateways)}")
    data = [volume.split(":")[0] for each in gateways.values() for volume in each["volumes"] if volume.endswith(":/data")]
    must(len(set(data)) == len(gateways), "gateways share a journal's volume")
    for name, service in gateways.items():
        must("keys:/data/keys:ro" in service["volumes"], f"{name}: keys are not mounted read-only")
        must("ports" not in service, f"{name}: a port is published")
        must(service["read_only"] and service["cap_drop"] == ["ALL"], f"{name}: root or capabilities are left")
        must("gateway" in service["networks"]["inside"]["aliases"], f"{name}: Prometheus does not find it")
    must(networks["inside"]["internal"], "the network of the admin listeners is open")


def chart(path, metrics, openapi, toml):
    with open(path, encoding="utf-8") as file:
        manifests = [manifest for manifest in yaml.safe_load_all(file) if manifest]
    of_kind = lambda kind: [manifest for manifest in manifests if manifest["kind"] == kind]
    with open(metrics, encoding="utf-8") as file:
        series = {line.split(" ")[0].split("{")[0] for line in file if not line.startswith("#")}
    with open(openapi, encoding="utf-8") as file:
        paths = json.load(file)["paths"]
    (gateways,) = of_kind("StatefulSet")
    spec, pod = gateways["spec"], gateways["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    must(set(spec["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}, "a claim goes with its pod")
    must(spec["podManagementPolicy"] == "Parallel", "gateways wait for each other")
    must([claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]] == ["data"], "no claim for the journal")
    drain_s = int(environment["SCANGATE_GATEWAY__DRAIN_TIMEOUT_MS"]) / 1000
    needed_s = container["lifecycle"]["preStop"]["sleep"]["seconds"] + 2 * drain_s + 0.5
    must(pod["terminationGracePeriodSeconds"] > needed_s, f"a stop may take {needed_s} s and is given less")
    must(environment["SCANGATE_CQL__CREATE_SCHEMA"] == "false", "gateways change the schema together")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        must(container[probe]["httpGet"]["path"] in paths, f"{probe}: no such path")
    must(container["readinessProbe"]["httpGet"]["path"] == "/readyz", "readiness is asked elsewhere")
    (scaler,) = of_kind("HorizontalPodAutoscaler")
    for metric in scaler["spec"]["metrics"]:
        must(metric["pods"]["metric"]["name"] in series, f"no gateway has {metric['pods']['metric']['name']}")
    with open("deploy/helm/prometheus-adapter.yaml", encoding="utf-8") as file:
        (rule,) = yaml.safe_load(file)["rules"]["custom"]
    for metric in scaler["spec"]["metrics"]:
        name = metric["pods"]["metric"]["name"].removeprefix("scangate_")
        must(name in rule["seriesQuery"], f"prometheus-adapter has no rule for {name}")
    for manifest in manifests:
        pods = manifest["spec"]["template"]["spec"] if manifest["kind"] in ("StatefulSet", "Job") else None
        if pods:
            name = manifest["metadata"]["name"]
            must(pods["automountServiceAccountToken"] is False, f"{name}: a token is mounted")
            must(pods["securityContext"]["runAsNonRoot"], f"{name}: root")
            for each in pods["containers"]:
                security = each["securityContext"]
                must(security["readOnlyRootFilesystem"] and security["capabilities"]["drop"] == ["ALL"], f"{name}: open")
                mounted = {mount["name"] for mount in each["volumeMounts"]}
                known = {volume["name"] for volume in pods["volumes"]} | {"data"}
                must(mounted <= known, f"{name}: mounts {mounted - known}")
                paths_mounted = [mount["mountPath"] for mount in each["volumeMounts"] if mount.get("readOnly")]
                nested = [inner for inner in paths_mounted for outer in paths_mounted if inner.startswith(outer + "/")]
                must(not nested, f"{name}: {nested} lie in a volume that can't be written to")
    (config,) = of_kind("ConfigMap")
    pathlib.Path(toml).write_text(config["data"]["scangate.toml"], encoding="utf-8")


{"compose": compose, "chart": chart}[sys.argv[1]](*sys.argv[2:])
for complaint in complaints:
    print(f"{sys.argv[2]}: {complaint}", file=sys.stderr)
sys.exit(1 if complaints else 0)
