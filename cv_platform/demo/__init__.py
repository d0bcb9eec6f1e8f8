"""The demonstration: footage made here, put where uploads go, watched while the daemon works, and summed up.

Belongs here: footage, its plan, waiting for the ledger to rest, the summary. Does not belong here: any processing of
clips, which is the daemon's alone, as in production.
"""
