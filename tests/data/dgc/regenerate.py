#!/usr/bin/env python3
"""Packs the EU's public test data for Digital COVID Certificates into the two files beside this one.

    git clone https://github.com/eu-digital-green-certificates/dgc-testdata
    git -C dgc-testdata checkout 4a62c8d
    python3 tests/data/dgc/regenerate.py dgc-testdata

Every file with expected results becomes one line, in the order of the names; nothing is changed but the
spelling of members and of JSON. The pictures stand apart, since they are three quarters of the bytes.
"""

import gzip
import json
import sys
from pathlib import Path

FIELDS = ["PREFIX", "BASE45", "COMPRESSED", "COSE", "CBOR", "JSON"]


def code(name, data):
    context = data["TESTCTX"]
    line = {"file": name, "expected": data["EXPECTEDRESULTS"]}
    line.update({field.lower(): data[field] for field in FIELDS if data.get(field) is not None})
    for member in ["CERTIFICATE", "VALIDATIONCLOCK"]:
        if context.get(member):
            line[member.lower()] = context[member]
    return line


def write(path, lines):
    text = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)
    with open(path, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(text.encode())
    print(f"{path}: {len(lines)} lines, {path.stat().st_size} bytes")


def main(source):
    codes, pictures = [], []
    for path in sorted(source.rglob("*.json"), key=lambda path: path.relative_to(source).as_posix()):
        name = path.relative_to(source).as_posix()
        data = json.loads(path.read_text("utf-8-sig"))
        if "EXPECTEDRESULTS" not in data:
            print(f"{name}: no expected results")
            continue
        codes.append(code(name, data))
        if data.get("2DCODE"):
            pictures.append({"file": name, "picture": data["2DCODE"]})
    here = Path(__file__).resolve().parent
    write(here / "codes.ndjson.gz", codes)
    write(here / "pictures.ndjson.gz", pictures)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
