"""The Dagster graph: thin definitions, one wing an area.

`partitions`, `op_tags`, `scope`, `plots` are leaves; `ingest`, `vision`, `aggregates`, `operations` each hold their
assets or jobs, sensors, schedules and checks. What a step does is in `pipeline`; where everything meets is
`cv_platform.definitions`.
"""
