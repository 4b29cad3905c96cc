"""Hooks of schemathesis: formats that only Chartgate knows, and ids of things that exist (from seed.py)."""

import json
import os
import random

import schemathesis
from hypothesis import strategies

with open(os.environ["FUZZ_KNOWN"]) as file:
    KNOWN = json.load(file)

schemathesis.openapi.format(
    "web-origin",
    strategies.sampled_from(
        ["https://ehr.example", "http://localhost:3000", "https://a.b.example:8443", "chrome-extension://abcdefghijklmnop"]
    ),
)
schemathesis.openapi.format(
    "time-zone", strategies.sampled_from(["UTC", "America/New_York", "Europe/Berlin", "Asia/Kolkata"])
)
schemathesis.openapi.format(
    "step-name", strategies.sampled_from(["failed_step", "start", "validate", "store_raw", "audit"])
)


@schemathesis.hook
def map_case(context, case):
    """Every second valid path names something that exists; random ids only ever find nothing."""
    is_valid = case.meta is None or case.meta.generation.mode.is_positive
    if is_valid and case.path_parameters:
        for name, value in case.path_parameters.items():
            known = KNOWN["paths"].get(name)
            if known and (hash(str(value)) % 2 == 0):
                case.path_parameters[name] = random.Random(str(value)).choice(known)
    # A job of an organization that was paused meanwhile never ends: a long wait would only be long.
    if is_valid and case.operation.definition.raw.get("operationId") == "getJob" and "wait" in (case.query or {}):
        case.query["wait"] = 1
    return case


@schemathesis.hook
def filter_case(context, case):
    """The keys that the run itself uses are not revoked: everything after it would be a 401."""
    return case.path_parameters is None or case.path_parameters.get("keyId") not in KNOWN["protected_keys"]
