"""Erasure (GDPR Art. 17): requests and their states, and the certificate that says what is gone.

Belongs here: who may ask, who may approve, what is signed. Does not belong here: the work itself, which is in
`pipeline/erasure.py`, and what a scope means in tables, which is in `storage/ledger/erasure_scope.py`.
"""
