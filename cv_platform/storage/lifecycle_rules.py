"""Lifecycle rules of an S3 bucket, as S3 tells them: which objects one touches, what it does to them, which are alike.

Rules in, answers out: nothing here asks S3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

Rule = Mapping[str, Any]

AT_REST: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Classes that must be restored, for hours, before an object can be read."""


def touches(rule: Rule, prefix: str) -> bool:
    """Whether a rule applies to objects that the platform writes under a prefix.

    A rule without a prefix applies to the whole bucket. One that asks for tags applies to none: the platform sets none.
    """
    where, tagged, larger_than, smaller_than = _filter(rule)
    possible = smaller_than is None or smaller_than > max(larger_than, -1) + 1
    overlap = prefix.startswith(where) or where.startswith(prefix)
    return rule.get("Status") == "Enabled" and not tagged and possible and overlap


def harm(rule: Rule) -> str | None:
    """What a rule does that no rule may do to what a hold can cover; None where it does nothing of that.

    Older versions are meant too: an upload that was overwritten is evidence as long as the bucket keeps it. Unfinished
    uploads and delete markers are no evidence: rules may clear them away.
    """
    expiration = rule.get("Expiration") or {}
    found = []
    if expiration.get("Days") is not None:
        found.append(f"deletes objects after {expiration['Days']} days")
    if expiration.get("Date") is not None:
        found.append(f"deletes objects from {expiration['Date']:%Y-%m-%d} on")
    if older := rule.get("NoncurrentVersionExpiration"):
        found.append(f"deletes older versions after {older.get('NoncurrentDays', 'some')} days")
    moves = [*(rule.get("Transitions") or ()), *(rule.get("NoncurrentVersionTransitions") or ())]
    classes = sorted({str(move.get("StorageClass")) for move in moves} & AT_REST)
    if classes:
        found.append(f"moves objects to {' and '.join(classes)}, where they cannot be read at once")
    return " and ".join(found) or None


def harms(rules: Sequence[Rule], *, bucket: str, prefixes: Sequence[str]) -> list[str]:
    """A line a rule that harms something under one of the prefixes: what was found, and what to do."""
    lines = []
    for rule in rules:
        touched = [prefix for prefix in prefixes if touches(rule, prefix)]
        what = harm(rule)
        if what is not None and touched:
            lines.append(
                f"lifecycle rule {rule.get('ID', 'without a name')!r} of bucket {bucket} {what}, under"
                f" {', '.join(touched)}, held ones too: S3 knows no hold. Limit it to other prefixes, or remove it; the"
                " policy says how long the platform keeps its objects"
            )
    return lines


def alike(rules: Sequence[Rule], others: Sequence[Rule]) -> bool:
    """Whether two sets of rules say the same, in whatever order."""
    return sorted(map(_essence, rules)) == sorted(map(_essence, others))


def _filter(rule: Rule) -> tuple[str, bool, int, int | None]:
    """A rule's prefix, whether it asks for tags, and its bounds of size, both outside."""
    given = rule.get("Filter") or {}
    both = {**given, **(given.get("And") or {})}
    prefix = both.get("Prefix", rule.get("Prefix", ""))  # beside the filter: rules of before 2016
    tagged = bool(both.get("Tag") or both.get("Tags"))
    return prefix or "", tagged, both.get("ObjectSizeGreaterThan", -1), both.get("ObjectSizeLessThan")


def _essence(rule: Rule) -> str:
    """All that a rule does, empty parts left out, so that what S3 adds or leaves out makes no difference."""
    acts = {name: value for name, value in rule.items() if value and name not in ("ID", "Filter", "Prefix", "Status")}
    moves = sorted((move.get("Days"), str(move.get("StorageClass"))) for move in acts.pop("Transitions", ()))
    return repr((rule.get("ID"), rule.get("Status"), _filter(rule), moves, sorted(acts.items())))
