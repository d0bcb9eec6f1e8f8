"""Which of a bucket's lifecycle rules touch the platform's objects, and which of these no hold would survive."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from cv_platform.storage.lifecycle_rules import alike, harm, harms, touches

OURS = "cold/blurred/"


def rule(given: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    return {"ID": "theirs", "Status": "Enabled", **({} if given is None else {"Filter": given}), **more}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (rule({}), True),  # the whole bucket
        (rule(None), True),
        (rule({"Prefix": ""}), True),
        (rule(None, Prefix=""), True),
        (rule(None, Prefix="cold/"), True),  # as rules were written before 2016
        (rule(None, Prefix="logs/"), False),
        (rule({"Prefix": "cold/"}), True),
        (rule({"Prefix": "cold/blur"}), True),
        (rule({"Prefix": "cold/blurred/"}), True),
        (rule({"Prefix": "cold/blurred/a7/"}), True),  # a part of ours
        (rule({"Prefix": "cold/blurredx/"}), False),
        (rule({"Prefix": "blurred/"}), False),
        (rule({"Prefix": "cold/audit/"}), False),
        (rule({"And": {"Prefix": "cold/", "ObjectSizeGreaterThan": 1000}}), True),
        (rule({"And": {"Prefix": "logs/", "ObjectSizeGreaterThan": 1000}}), False),
        (rule({"ObjectSizeGreaterThan": 1000}), True),
        (rule({"ObjectSizeLessThan": 1000}), True),
        (rule({"ObjectSizeLessThan": 1}), True),  # empty objects
        (rule({"ObjectSizeLessThan": 0}), False),
        (rule({"And": {"ObjectSizeGreaterThan": 10, "ObjectSizeLessThan": 12}}), True),
        (rule({"And": {"ObjectSizeGreaterThan": 10, "ObjectSizeLessThan": 11}}), False),
        (rule({"Tag": {"Key": "k", "Value": "v"}}), False),
        (rule({"And": {"Prefix": "cold/", "Tags": [{"Key": "k", "Value": "v"}]}}), False),
        (rule({}, Status="Disabled"), False),
    ],
)
def test_which_rules_touch_a_prefix(given: dict[str, Any], expected: bool) -> None:
    assert touches(given, OURS) is expected


@pytest.mark.parametrize(
    ("acts", "expected"),
    [
        ({"Expiration": {"Days": 9}}, "deletes objects after 9 days"),
        ({"Expiration": {"Date": datetime(2027, 1, 1, tzinfo=UTC)}}, "deletes objects from 2027-01-01 on"),
        ({"NoncurrentVersionExpiration": {"NoncurrentDays": 3}}, "deletes older versions after 3 days"),
        ({"NoncurrentVersionExpiration": {"NewerNoncurrentVersions": 2}}, "deletes older versions after some days"),
        ({"Transitions": [{"Days": 1, "StorageClass": "DEEP_ARCHIVE"}]}, "DEEP_ARCHIVE"),
        ({"NoncurrentVersionTransitions": [{"NoncurrentDays": 1, "StorageClass": "GLACIER"}]}, "GLACIER"),
        ({"Transitions": [{"Days": 1, "StorageClass": "GLACIER_IR"}]}, None),
        ({"Transitions": [{"Days": 1, "StorageClass": "INTELLIGENT_TIERING"}]}, None),
        ({"Expiration": {"ExpiredObjectDeleteMarker": True}}, None),
        ({"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}}, None),
    ],
)
def test_what_no_hold_would_survive(acts: dict[str, Any], expected: str | None) -> None:
    found = harm(rule({}, **acts))
    assert found is None if expected is None else expected in str(found)


def test_a_line_says_what_was_found_and_what_to_do() -> None:
    expiring = {"Expiration": {"Days": 9}}
    rules = [rule({"Prefix": "logs/"}, **expiring), rule({"Prefix": "cold/"}, **expiring), rule({"Prefix": "cold/"})]
    [line] = harms(rules, bucket="b", prefixes=[OURS, "cold/audit/", "other/"])
    for word in ("'theirs'", "bucket b", "after 9 days", "cold/blurred/, cold/audit/,", "held", "remove it"):
        assert word in line
    assert "other/" not in line


def test_what_somebody_added_to_a_rule_makes_it_another() -> None:
    ours = rule({"Prefix": OURS}, Transitions=[{"Days": 30, "StorageClass": "STANDARD_IA"}])
    assert alike([ours, rule({})], [rule({}), {**ours, "Expiration": {}}])
    for more in ({"Expiration": {"Days": 1}}, {"Status": "Disabled"}, {"Filter": {"Prefix": "x"}}, {"Transitions": []}):
        assert not alike([ours], [{**ours, **more}])
    assert not alike([ours], [ours, ours])
