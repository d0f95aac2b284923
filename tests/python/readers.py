"""Compares the master dataset of a stream, as other engines read it, with the answer of SQL.

Usage: readers.py DELTA_TABLE SERVER_URL STREAM
"""

import datetime
import json
import sys
import urllib.request

import deltalake
import duckdb
import polars
import pyarrow

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def plain(value):
    """A cell as nested lists, dicts and scalars; times as microseconds since 1970."""
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            raise AssertionError(f"{value} has no time zone")
        return ("micros", (value - EPOCH) // datetime.timedelta(microseconds=1))
    if isinstance(value, dict):
        return {name: plain(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(element) for element in value]
    if isinstance(value, float):
        return ("float", value.hex())
    return value


def typed(value, arrow_type):
    """A cell of SQL's JSON answer in the same form; the type says what a string stands for."""
    if value is None:
        return None
    if pyarrow.types.is_struct(arrow_type):
        fields = [arrow_type.field(index) for index in range(arrow_type.num_fields)]
        return {field.name: typed(value[field.name], field.type) for field in fields}
    if pyarrow.types.is_list(arrow_type):
        return [typed(element, arrow_type.value_type) for element in value]
    if pyarrow.types.is_timestamp(arrow_type):
        return plain(datetime.datetime.fromisoformat(value))
    if pyarrow.types.is_floating(arrow_type):
        return plain(float(value))
    return value


def ask(url, query):
    request = urllib.request.Request(f"{url}/api/v1/sql?format=json", data=query.encode())
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def by_position(rows):
    return sorted(rows, key=lambda row: (row["_shard"], row["_offset"]))


def compare(name, rows, expected):
    rows = by_position([{column: plain(value) for column, value in row.items()} for row in rows])
    assert len(rows) == len(expected), f"{name}: {len(rows)} rows, SQL has {len(expected)}"
    for row, wanted in zip(rows, expected):
        assert set(row) == set(wanted), f"{name}: columns {sorted(row)}, SQL has {sorted(wanted)}"
        for column, value in row.items():
            where = f"{name}: shard {row['_shard']}, offset {row['_offset']}, {column}"
            assert value == wanted[column], f"{where}: {value!r}, SQL has {wanted[column]!r}"
    print(f"{name}: {len(rows)} rows and {len(rows[0])} columns are equal")


def main(table, url, stream):
    delta = deltalake.DeltaTable(table)
    arrow = delta.to_pyarrow_table()
    types = {field.name: field.type for field in arrow.schema}
    assert {"_shard", "_offset", "_ingested_at", "_producer"} <= set(types), sorted(types)
    columns = ", ".join(f'"{name}"' for name in types)
    answer = ask(url, f"SELECT {columns} FROM {stream}")
    expected = by_position(
        [{name: typed(row[name], types[name]) for name in types} for row in answer["data"]]
    )
    assert expected, "the stream has rows"

    compare("deltalake", arrow.to_pylist(), expected)
    compare("polars scan_delta", polars.scan_delta(table).collect().to_dicts(), expected)
    files = delta.file_uris()
    assert len(files) > 1, f"several flushes made {len(files)} file"
    # The files of earlier flushes lack the columns that came later.
    compare("duckdb read_parquet", duckdb_rows(files), expected)


def duckdb_rows(files):
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    return connection.execute(
        "SELECT * FROM read_parquet($files, union_by_name = true)", {"files": files}
    ).to_arrow_table().to_pylist()


if __name__ == "__main__":
    main(*sys.argv[1:])
