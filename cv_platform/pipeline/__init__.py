"""What a stage does with a clip: claim, work, commit. Without Dagster.

One room a subject: `platform` (the stores and parts that work is done with), `keys` and `ingest` (uploads become
clips), `stage` (the loop that all clip stages share), a file a stage, `publishing` (from the fenced key to the
stable one), `versions` (what makes a stage's work void).

Belongs here: the order in which stores and vision are called, and what happens when they fail. Does not belong here:
SQL (storage), pixels (vision), runs and sensors (defs).
"""
