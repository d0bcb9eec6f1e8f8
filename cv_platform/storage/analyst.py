"""The login of the role `analyst`. What the role may read is the schema's to say (migration 0002)."""

from __future__ import annotations

import time

import psycopg
from psycopg import sql

from cv_platform.storage.database import Connection

ROLE = "analyst"


def set_analyst_login(connection: Connection, password: str | None) -> None:
    """Let `analyst` log in with this password; without one it cannot log in.

    The server gets the password's SCRAM verifier, never the password: statements end up in logs.
    Needs CREATEROLE (with admin rights on the role) or a superuser; raises psycopg.errors.InsufficientPrivilege.
    """
    if password is None:
        statement = sql.SQL("ALTER ROLE {} NOLOGIN PASSWORD NULL").format(sql.Identifier(ROLE))
    else:
        verifier = connection.pgconn.encrypt_password(
            password.encode(), ROLE.encode(), algorithm=b"scram-sha-256"
        ).decode()
        statement = sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(ROLE), sql.Literal(verifier))
    for attempt in range(10):
        try:
            with connection.transaction():
                connection.execute(statement)
            return
        except psycopg.errors.InternalError_:
            # Roles belong to the server: another database's process alters the same one ("tuple concurrently updated").
            if attempt == 9:
                raise
            time.sleep(0.05)
