"""Dagster's resources: thin wrappers that say how to reach a store. They connect where they are first used.

Belongs here: `ConfigurableResource` classes. Does not belong here: what is done with a store.
"""
