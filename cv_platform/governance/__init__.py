"""The rules that data lives under: policy, retention, holds, erasure, audit, keys.

Belongs here: what may be kept, for how long, who may see it deleted, and the proof. Does not belong here: pictures,
Dagster, and how a stage does its work.
"""
