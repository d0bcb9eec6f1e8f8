"""Where data lives: objects (folder or S3), the ledger and the warehouse (PostgreSQL), hot keys (Redis), Parquet.

Belongs here: reading and writing those stores. Does not belong here: Dagster, pictures, policy.
"""
