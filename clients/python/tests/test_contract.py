"""The client's types are those of the API's own description, in both directions."""

import dataclasses
import json
import unittest
import urllib.request

from scangate_client import REASONS, Duplicate, Recorded, Refused, Scan

from .gateway import Gateway


class Contract(unittest.TestCase):
    def test_the_types_are_the_descriptions(self) -> None:
        gateway = Gateway()
        self.addCleanup(gateway.close)
        with urllib.request.urlopen(f"{gateway.base}/openapi.json") as answer:
            schemas = json.load(answer)["components"]["schemas"]

        def described(name: str) -> set[str]:
            return set(schemas[name]["properties"])

        def members(kind: type) -> set[str]:
            return {member.name for member in dataclasses.fields(kind)}

        self.assertEqual(set(json.loads(Scan("x").line())), described("CheckinRequest"))
        # A card is told to those only who ask for it, which this client doesn't.
        self.assertEqual(members(Recorded) | {"outcome"}, described("Recorded") - {"card"})
        self.assertEqual(members(Duplicate) | {"outcome"}, described("Duplicate") - {"card"})
        self.assertEqual(members(Refused), described("Refused"))
        self.assertEqual(set(REASONS), set(schemas["Refused"]["properties"]["outcome"]["enum"]))
