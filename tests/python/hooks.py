"""Teaches the fuzzer to write the bodies that only this server takes."""

import schemathesis

# Both are text to the fuzzer, as they are in the description.
schemathesis.serializer.alias(["application/x-ndjson", "application/sql"], "text/plain")
