"""The embedded stack: real servers from wheels, run as plain processes under one state folder.

Belongs here: starting, finding and stopping PostgreSQL, Redis, Dagster's webserver and daemon; the demo's footage.
Does not belong here: what the platform does with them. Production points `CV_PLATFORM_*` at servers of its own and
uses nothing of this folder.
"""
