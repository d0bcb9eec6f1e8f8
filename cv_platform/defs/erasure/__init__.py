"""Erasure requests in the Dagster UI: the job that executes and certifies, the sensor that asks for it."""
