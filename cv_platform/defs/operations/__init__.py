"""Housekeeping of the platform itself."""
