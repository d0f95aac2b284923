"""Teaches the fuzzer to write the bodies that only this server takes."""

import schemathesis

# All are text to the fuzzer, as they are in the description.
schemathesis.serializer.alias(
    [
        "application/x-ndjson",
        "application/sql",
        "application/vnd.apache.arrow.stream",
        "application/vnd.apache.parquet",
        "text/csv",
    ],
    "text/plain",
)
