"""The ledger: which clips exist, which stage each has passed, at which version, and why not.

One room a subject: `model` (what the rows are), `registration` (uploads become clips), `claims` (leases and fences),
`commits` (the one transaction that ends a piece of work), `withdrawal` (a clip leaves the graph), `heads` (cameras'
tracking), `versions`, `scopes` (what there is to do), `queries` (what people ask).

Belongs here: SQL on the schema `cv`, each function one transaction or part of one. Does not belong here: the work.
"""
