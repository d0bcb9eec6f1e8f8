"""What a query can touch: the cameras and times that its conditions leave, for each table that it reads.

Only conditions that stand beside the table are looked at, and only those that surely hold for every row of the answer;
whatever is not understood bounds nothing. So the bounds may be too wide, never too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cv_platform.storage.cold.kinds import KINDS

# A node of sqlglot's tree: what its base class is called changes between its versions.
Node = Any
# The value of a constant SQL expression as a moment, or None.
Evaluate = Callable[[str], datetime | None]

_JUST_AFTER = timedelta(microseconds=1)
_DAY = timedelta(days=1)


class QueryRefused(ValueError):
    """The query is not one that reads; the message says what is allowed."""


@dataclass(frozen=True)
class Bounds:
    """Cameras (None: all) and times, `end` exclusive (None: open)."""

    cameras: frozenset[str] | None = None
    start: datetime | None = None
    end: datetime | None = None

    def __and__(self, other: Bounds) -> Bounds:
        both = [each.cameras for each in (self, other) if each.cameras is not None]
        return Bounds(
            frozenset.intersection(*both) if both else None,
            max((each for each in (self.start, other.start) if each), default=None),
            min((each for each in (self.end, other.end) if each), default=None),
        )

    def __or__(self, other: Bounds) -> Bounds:
        return Bounds(
            None if self.cameras is None or other.cameras is None else self.cameras | other.cameras,
            None if self.start is None or other.start is None else min(self.start, other.start),
            None if self.end is None or other.end is None else max(self.end, other.end),
        )


def bounds_of(sql: str, evaluate: Evaluate) -> dict[str, Bounds]:
    """The tables that a query reads, each with its bounds.

    Args:
        sql: one SELECT in DuckDB's dialect.
        evaluate: gives constants their value.

    Raises:
        QueryRefused: it cannot be parsed, or is not one SELECT.
    """
    import sqlglot
    from sqlglot import exp

    try:
        statements = [each for each in sqlglot.parse(sql, read="duckdb") if each is not None]
    except sqlglot.errors.SqlglotError as error:
        raise QueryRefused(f"the query cannot be parsed: {str(error).splitlines()[0]}") from None
    if len(statements) != 1 or not isinstance(statements[0], exp.Query):
        raise QueryRefused("allowed is one SELECT over detections, tracks and events; nothing is written here")
    (query,) = statements
    named = {cte.alias_or_name.lower() for cte in query.find_all(exp.CTE)}
    found: dict[str, Bounds] = {}
    for table in query.find_all(exp.Table):
        kind = table.name.lower()
        if kind in KINDS and kind not in named and not table.args.get("db"):
            bounds = _bounds_beside(table, evaluate)
            found[kind] = found[kind] | bounds if kind in found else bounds
    return found


def _bounds_beside(table: Node, evaluate: Evaluate) -> Bounds:
    from sqlglot import exp

    clause = table.parent
    select = clause.parent if isinstance(clause, exp.From | exp.Join) else None
    if not isinstance(select, exp.Select) or (where := select.args.get("where")) is None:
        return Bounds()
    alone = not select.args.get("joins") and not select.args.get("laterals")
    renamed = {each.alias.lower() for each in select.expressions if each.alias}
    alias = table.alias_or_name.lower()

    def column(node: Node) -> str | None:
        if not isinstance(node, exp.Column) or node.name.lower() in renamed:
            return None
        mine = node.table.lower() == alias if node.table else alone
        return node.name.lower() if mine else None

    bounds = Bounds()
    for condition in _conjuncts(where.this):
        bounds &= _bounds_by(condition, column, evaluate)
    return bounds


def _conjuncts(node: Node) -> Iterator[Node]:
    from sqlglot import exp

    node = node.unnest()
    if isinstance(node, exp.And):
        yield from _conjuncts(node.left)
        yield from _conjuncts(node.right)
    else:
        yield node


def _bounds_by(condition: Node, column: Callable[[Node], str | None], evaluate: Evaluate) -> Bounds:
    """What one condition says of the table, as far as it is understood."""
    from sqlglot import exp

    if isinstance(condition, exp.In) and column(condition.this) == "camera_id" and condition.expressions:
        return _cameras(condition.expressions)
    if isinstance(condition, exp.Between):
        low = _compared(exp.GTE, condition.this, condition.args["low"], column, evaluate)
        return low & _compared(exp.LTE, condition.this, condition.args["high"], column, evaluate)
    mirrored: dict[Any, Any] = {exp.EQ: exp.EQ, exp.GT: exp.LT, exp.GTE: exp.LTE, exp.LT: exp.GT, exp.LTE: exp.GTE}
    for kind, turned in mirrored.items():
        if type(condition) is kind:
            left, right = condition.this.unnest(), condition.expression.unnest()
            if kind is exp.EQ:
                for one, other in ((left, right), (right, left)):
                    if column(one) == "camera_id":
                        return _cameras([other])
            return _compared(kind, left, right, column, evaluate) & _compared(turned, right, left, column, evaluate)
    return Bounds()


def _cameras(nodes: Iterable[Node]) -> Bounds:
    from sqlglot import exp

    texts = [node.unnest() for node in nodes]
    if all(isinstance(node, exp.Literal) and node.is_string for node in texts):
        return Bounds(cameras=frozenset(str(node.this) for node in texts))
    return Bounds()


def _compared(
    how: Any,
    left: Node,
    right: Node,
    column: Callable[[Node], str | None],
    evaluate: Evaluate,
) -> Bounds:
    """`left how right`, where left is the time or its date and right a constant."""
    from sqlglot import exp

    by_date = isinstance(left, exp.Cast) and left.to.this == exp.DataType.Type.DATE
    if column(left.this.unnest() if by_date else left) != "timestamp":
        return Bounds()
    if any(right.find(kind) for kind in (exp.Column, exp.Query, exp.Placeholder, exp.Parameter)):
        return Bounds()
    value = evaluate(right.sql(dialect="duckdb"))
    if value is None:
        return Bounds()
    if by_date and value != datetime(value.year, value.month, value.day, tzinfo=UTC):
        return Bounds()
    after = value + (_DAY if by_date else _JUST_AFTER)
    if how is exp.EQ:
        return Bounds(start=value, end=after)
    if how in (exp.GT, exp.GTE):
        return Bounds(start=value)
    return Bounds(end=value if how is exp.LT else after)
