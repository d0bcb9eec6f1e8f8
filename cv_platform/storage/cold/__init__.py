"""The cold warehouse: rows that left PostgreSQL, as Parquet, a file a camera, day and kind of row.

Belongs here: what a file holds, how rows get from PostgreSQL into one and back, how both sides are compared. Does not
belong here: which day is due and when a file counts (storage/ledger/cold_days.py), who moves what (pipeline/).
"""
