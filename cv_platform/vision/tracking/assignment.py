"""Who belongs to whom: exact assignment between tracks and detections, compiled.

Belongs here: the rectangular assignment solver and the matching of tracks to detections by a similarity matrix.
Does not belong here: how similarity is computed (`overlap.py`) and what follows from a match (the trackers).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cv_platform.vision.compiled import compiled

Matrix = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@compiled
def solve(cost: Matrix) -> Indices:
    """The column of each row that makes the total cost least, for no more rows than columns.

    Shortest augmenting paths with dual variables (Jonker and Volgenant 1987; the rectangular form of Crouse 2016): one
    row is added at a time along the cheapest alternating path. O(rows² · columns).

    Args:
        cost: float64 (R, C) with R <= C, finite.

    Returns:
        int64 (R,): distinct column indices. The total equals that of `scipy.optimize.linear_sum_assignment`.
    """
    rows, columns = cost.shape
    row_dual = np.zeros(rows)
    column_dual = np.zeros(columns)
    column_of = np.full(rows, -1, np.int64)
    row_of = np.full(columns, -1, np.int64)
    distance = np.empty(columns)
    parent = np.empty(columns, np.int64)
    visited = np.empty(columns, np.bool_)
    for start in range(rows):
        for column in range(columns):
            distance[column] = np.inf
            visited[column] = False
        row = start
        reached = 0.0
        sink = -1
        while sink < 0:
            nearest = -1
            lowest = np.inf
            for column in range(columns):
                if visited[column]:
                    continue
                through = reached + cost[row, column] - row_dual[row] - column_dual[column]
                if through < distance[column]:
                    distance[column] = through
                    parent[column] = row
                # among equals a free column ends the search at once
                if distance[column] < lowest or (distance[column] == lowest and row_of[column] < 0):
                    lowest = distance[column]
                    nearest = column
            reached = lowest
            visited[nearest] = True
            if row_of[nearest] < 0:
                sink = nearest
            else:
                row = row_of[nearest]
        row_dual[start] += reached
        for column in range(columns):
            if visited[column] and column != sink:
                row_dual[row_of[column]] += reached - distance[column]
                column_dual[column] -= reached - distance[column]
        column = sink
        while True:
            row = parent[column]
            row_of[column] = row
            following = column_of[row]
            column_of[row] = column
            if row == start:
                break
            column = following
    return column_of


@compiled
def sort_in_place(values: npt.NDArray[Any]) -> None:
    """Insertion sort: for the few values that there are, and compiled in a tenth of NumPy's time."""
    for i in range(1, len(values)):
        value = values[i]
        j = i
        while j > 0 and values[j - 1] > value:
            values[j] = values[j - 1]
            j -= 1
        values[j] = value


@compiled
def match(similarity: Matrix) -> Indices:
    """The one-to-one matching with the greatest total similarity; entries of 0 or less are never matched.

    The matrix falls apart into small groups (boxes far from each other share no similarity); each group is solved on
    its own, which changes no total: a pair that could only be joined at 0 adds nothing.

    Args:
        similarity: float64 (T, D).

    Returns:
        int64 (T,): the column of each row, -1 for none.
    """
    rows, columns = similarity.shape
    column_of = np.full(rows, -1, np.int64)
    row_seen = np.zeros(rows, np.bool_)
    column_seen = np.zeros(columns, np.bool_)
    row_queue = np.empty(rows, np.int64)
    column_queue = np.empty(columns, np.int64)
    for seed in range(rows):
        if row_seen[seed]:
            continue
        row_seen[seed] = True
        row_queue[0] = seed
        group_rows = 1
        group_columns = 0
        next_row = 0
        next_column = 0
        while next_row < group_rows or next_column < group_columns:
            if next_row < group_rows:
                row = row_queue[next_row]
                next_row += 1
                for column in range(columns):
                    if similarity[row, column] > 0.0 and not column_seen[column]:
                        column_seen[column] = True
                        column_queue[group_columns] = column
                        group_columns += 1
            else:
                column = column_queue[next_column]
                next_column += 1
                for row in range(rows):
                    if similarity[row, column] > 0.0 and not row_seen[row]:
                        row_seen[row] = True
                        row_queue[group_rows] = row
                        group_rows += 1
        if group_columns == 0:
            continue
        if group_rows == 1 and group_columns == 1:
            column_of[seed] = column_queue[0]
            continue
        # ascending order, so that the outcome among equals does not depend on the order of discovery
        members, choices = row_queue[:group_rows], column_queue[:group_columns]
        sort_in_place(members)
        sort_in_place(choices)
        turned = group_rows > group_columns
        cost = np.empty((min(group_rows, group_columns), max(group_rows, group_columns)))
        for i in range(group_rows):
            for j in range(group_columns):
                value = -max(similarity[members[i], choices[j]], 0.0)
                if turned:
                    cost[j, i] = value
                else:
                    cost[i, j] = value
        solution = solve(cost)
        for k in range(solution.size):
            row = members[solution[k]] if turned else members[k]
            column = choices[k] if turned else choices[solution[k]]
            if similarity[row, column] > 0.0:
                column_of[row] = column
    return column_of
