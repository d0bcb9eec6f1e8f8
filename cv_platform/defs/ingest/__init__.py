"""Uploads become clips in the ledger: the sensor that registers, and the job that finds what it missed."""
