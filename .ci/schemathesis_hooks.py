"""NDJSON for schemathesis: a body is described as the array that its lines make. Frames: whole images."""

import json
import pathlib
import struct
import zlib

import schemathesis
from hypothesis import strategies

NDJSON = "application/x-ndjson"


@schemathesis.serializer(NDJSON)
def write(_context, value):
    lines = value if isinstance(value, list) else [value]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode("utf-8", "surrogatepass")


@schemathesis.deserializer(NDJSON)
def read(_context, response):
    return [json.loads(line) for line in response.content.splitlines()]


def png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = (b"\0" + b"\xff" * width) * height
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# Schemas can't say what an image is, so the images are brought along: with codes and without.
FRAMES = pathlib.Path(__file__).parent.parent / "tests" / "data" / "frames"
JPEGS = [file.read_bytes() for file in sorted(FRAMES.glob("*.jpg"))]
LUMA = "application/vnd.scangate.luma;w=640;h=480"
schemathesis.openapi.media_type("image/jpeg", strategies.sampled_from(JPEGS))
schemathesis.openapi.media_type("image/png", strategies.builds(png, strategies.integers(1, 64), strategies.integers(1, 64)))
schemathesis.openapi.media_type(LUMA, strategies.integers(0, 255).map(lambda level: bytes([level]) * (640 * 480)))


@schemathesis.hook
def filter_case(_context, case):
    """Any bytes are lines, so that no body of lines is of a wrong type: a wrong line spoils only itself."""
    return case.media_type != NDJSON or isinstance(case.body, list)
