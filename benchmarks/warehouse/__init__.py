"""The warehouse against its bars: bulk writes, the common queries, the way to Parquet, one day out of a cold year.

    python -m benchmarks.warehouse write  [--rows 5000] [--cameras 64]
    python -m benchmarks.warehouse export [--rows 5000000] [--cameras 64]
    python -m benchmarks.warehouse page   [--rows 50000000] [--days 90] [--cameras 64] [--queries 400]
    python -m benchmarks.warehouse cold   [--days 365] [--cameras 4] [--rows 400]

Each also takes --rounds, --cores, --json FILE, --shared-buffers SIZE and --folder FOLDER (where the server and the
store go: 400 bytes a row). Everything runs on a durable PostgreSQL of its own with the embedded stack's settings (128
MB of shared buffers).

A module a part: what it measures and how stands in its docstring; it has `DEFAULTS` of the options and
`measure(database, options)`. A module whose name begins with `_` is no part.
"""
