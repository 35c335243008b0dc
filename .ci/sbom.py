#!/usr/bin/env python3
"""Writes the bill of materials of a release (CycloneDX 1.6, JSON) and holds it to the schema.

    .ci/sbom.py OUT.json

Every crate that is linked into the gateway for x86_64 Linux, as Cargo.lock pins it, with licence, checksum and who
needs whom; and the C and C++ that three of them bundle, which no lock file names.
"""
import json
import pathlib
import re
import subprocess
import sys
import tomllib

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

TARGET = "x86_64-unknown-linux-gnu"

# crate: (what it bundles, licence, home, file in the crate, what to find there)
BUNDLED = {
    "zxing-cpp": ("zxing-cpp", "Apache-2.0", "https://github.com/zxing-cpp/zxing-cpp", "core/CMakeLists.txt",
                  r'project \(ZXing VERSION "([\d.]+)"'),
    "aws-lc-sys": ("aws-lc", "Apache-2.0 OR ISC", "https://github.com/aws/aws-lc", "aws-lc/include/openssl/base.h",
                   r'define AWSLC_VERSION_NUMBER_STRING "([\d.]+)"'),
    "zstd-sys": ("zstd", "BSD-3-Clause", "https://github.com/facebook/zstd", "zstd/lib/zstd.h",
                 r"ZSTD_VERSION_MAJOR +(\d+)\n#define ZSTD_VERSION_MINOR +(\d+)\n#define ZSTD_VERSION_RELEASE +(\d+)"),
}


def metadata() -> dict:
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", TARGET]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def linked(nodes: dict, root: str) -> set:
    """The packages reached by ordinary and build dependencies: what a release is made with."""
    reached, waiting = set(), [root]
    while waiting:
        node = waiting.pop()
        if node in reached:
            continue
        reached.add(node)
        for dependency in nodes[node]["deps"]:
            if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"]):
                waiting.append(dependency["pkg"])
    return reached


def component(package: dict, checksums: dict, kind: str) -> dict:
    name, version = package["name"], package["version"]
    purl = f"pkg:cargo/{name}@{version}"
    made = {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl, "scope": "required"}
    if package.get("license"):
        # Cargo still allows a slash for OR; SPDX never did.
        made["licenses"] = [{"expression": re.sub(r"\s*/\s*", " OR ", package["license"])}]
    if (name, version) in checksums:
        made["hashes"] = [{"alg": "SHA-256", "content": checksums[name, version]}]
    return made


def bundled(package: dict) -> dict:
    name, licence, home, file, pattern = BUNDLED[package["name"]]
    text = (pathlib.Path(package["manifest_path"]).parent / file).read_text(encoding="utf-8", errors="replace")
    found = re.search(pattern, text)
    if not found:
        raise SystemExit(f"{package['name']}: no version of the bundled {name} in {file}")
    version = ".".join(found.groups())
    purl = f"pkg:generic/{name}@{version}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl, "scope": "required",
            "licenses": [{"expression": licence}], "externalReferences": [{"type": "vcs", "url": home}]}


def document() -> dict:
    data = metadata()
    packages = {package["id"]: package for package in data["packages"]}
    nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
    root = next(i for i, package in packages.items() if package["name"] == "scangate")
    lock = tomllib.loads(pathlib.Path(data["workspace_root"], "Cargo.lock").read_text(encoding="utf-8"))
    checksums = {(p["name"], p["version"]): p["checksum"] for p in lock["package"] if "checksum" in p}
    reached = linked(nodes, root)
    components, dependencies = [], []
    for identity in sorted(reached, key=lambda i: (packages[i]["name"], packages[i]["version"])):
        package = packages[identity]
        made = component(package, checksums, "application" if identity == root else "library")
        needs = {f"pkg:cargo/{packages[d['pkg']]['name']}@{packages[d['pkg']]['version']}"
                 for d in nodes[identity]["deps"] if d["pkg"] in reached}
        if identity != root:
            components.append(made)
        if package["name"] in BUNDLED:
            inside = bundled(package)
            components.append(inside)
            needs.add(inside["bom-ref"])
        dependencies.append({"ref": made["bom-ref"], "dependsOn": sorted(needs)})
    missing = set(BUNDLED) - {packages[i]["name"] for i in reached}
    if missing:
        raise SystemExit(f"no longer in the tree: {', '.join(sorted(missing))}; take it out of this script")
    return {
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "metadata": {"component": component(packages[root], checksums, "application"),
                     "properties": [{"name": "cargo:target", "value": TARGET}]},
        "components": components, "dependencies": dependencies,
    }


def main() -> None:
    out = pathlib.Path(sys.argv[1])
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    made = document()
    text = json.dumps(made, indent=1, sort_keys=True) + "\n"
    if error := validator.validate_str(text):
        raise SystemExit(f"not CycloneDX 1.6: {error}")
    # A validator that lets everything pass would be none.
    spoilt = {**made, "components": [{"name": "without a type"}]}
    if validator.validate_str(json.dumps(spoilt)) is None:
        raise SystemExit("the validator found nothing in a document that is wrong")
    unlicensed = [c["name"] for c in made["components"] if "licenses" not in c]
    unhashed = [c["name"] for c in made["components"] if c["purl"].startswith("pkg:cargo/") and "hashes" not in c]
    if unlicensed or unhashed:
        raise SystemExit(f"without licence: {unlicensed}; without checksum: {unhashed}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    native = [f"{c['name']} {c['version']}" for c in made["components"] if c["purl"].startswith("pkg:generic/")]
    print(f"{out}: {len(made['components'])} components, of these bundled in C and C++: {', '.join(native)}")


main()
