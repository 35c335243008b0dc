"""NDJSON for schemathesis: a body is described as the array that its lines make."""

import json

import schemathesis

NDJSON = "application/x-ndjson"


@schemathesis.serializer(NDJSON)
def write(_context, value):
    lines = value if isinstance(value, list) else [value]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode("utf-8", "surrogatepass")


@schemathesis.deserializer(NDJSON)
def read(_context, response):
    return [json.loads(line) for line in response.content.splitlines()]


@schemathesis.hook
def filter_case(_context, case):
    """Any bytes are lines, so that no body of lines is of a wrong type: a wrong line spoils only itself."""
    return case.media_type != NDJSON or isinstance(case.body, list)
