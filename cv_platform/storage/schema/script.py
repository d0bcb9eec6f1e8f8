"""What migrations share."""

from __future__ import annotations

from typing import Any, cast

from alembic import op


def execute_script(sql: str) -> None:
    """Run several statements as they stand: no parameters, so `%` means itself."""
    driver_connection = cast("Any", op.get_bind().connection.driver_connection)
    driver_connection.execute(sql)
