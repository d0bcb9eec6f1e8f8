"""The policy is validated whole, overrides word by word, and says what makes work void."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cv_platform.governance.policy import Policy, PolicyError, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("72h", 259200), ("5min", 300), ("90d", 7776000), ("7y", 220752000), ("1s", 1), ("1.5h", 5400), (" 2 h ", 7200)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@given(st.integers(1, 10**9))
def test_a_duration_written_down_is_the_same_duration(seconds: int) -> None:
    assert parse_duration(format_duration(timedelta(seconds=seconds))) == timedelta(seconds=seconds)


def test_defaults_are_the_design_s() -> None:
    keep = Policy().rules_for("any", "camera").keep
    assert {name: format_duration(getattr(keep, name)) for name in type(keep).model_fields} == {
        "raw": "3d",
        "frames": "1d",
        "quarantine": "30d",
        "hot": "5min",
        "warm": "90d",
        "cold": "7y",
        "audit": "7y",
        "previews": "30d",
        "logs": "30d",
        "embeddings": "1h",
    }


POLICY = """
defaults:
  keep: {raw: 48h}
  hide: {method: blur}
sites:
  depot:
    time_zone: Europe/Berlin
    keep: {warm: 10d}
    cameras:
      gate: {public_area: true, keep: {frames: 2d}, look: {classes: [person]}}
"""


def test_a_camera_overrides_its_site_and_that_the_defaults_word_by_word() -> None:
    policy = Policy.parse(POLICY)
    gate, yard, other = (policy.rules_for(*key) for key in (("depot", "gate"), ("depot", "yard"), ("elsewhere", "x")))
    assert (gate.keep.warm, yard.keep.warm, other.keep.warm) == (timedelta(10), timedelta(10), timedelta(90))
    assert (yard.keep.raw, other.keep.raw) == (timedelta(2), timedelta(2))
    assert (gate.look.classes, yard.look.classes) == (["person"], None)
    assert gate.hide.method == "blur"
    assert policy.time_zone("depot") == "Europe/Berlin"
    assert policy.time_zone("elsewhere") == "UTC"


def test_a_public_area_keeps_faces_no_longer_than_a_day_whatever_the_file_says() -> None:
    keep = Policy.parse(POLICY).rules_for("depot", "gate").keep
    assert (keep.raw, keep.frames) == (timedelta(1), timedelta(1))


def test_a_public_area_is_solid_unless_the_file_says_otherwise() -> None:
    assert Policy.parse("defaults: {public_area: true}").default_rules.hide_method == "solid"
    assert Policy().default_rules.hide_method == "mosaic"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("retention: {}", "retention: unknown"),
        ("defaults: {keep: {raws: 1h}}", "defaults.keep.raws: unknown word"),
        ("defaults: {keep: {raw: soon}}", "'soon' is no duration"),
        ("defaults: {keep: {raw: 0h}}", "longer than nothing"),
        ("defaults: {hide: {method: pixelate}}", "defaults.hide.method"),
        ("defaults: {hide: {zones: [[[0, 0], [2, 0], [0, 1]]]}}", "defaults.hide.zones"),
        ("sites: {a: {time_zone: Mars/Base}}", "sites.a.time_zone: 'Mars/Base' is no time zone"),
        ("sites: {a: {keepp: {}}}", "sites.a.keepp: unknown word"),
        ("sites: {a: {cameras: {c: {keep: {raw: -1h}}}}}", "sites.a.cameras.c.keep.raw"),
        ("- a list", "mapping"),
        ("a: [", "no YAML"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text: str, told: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.parse(text)
    assert told in str(caught.value)


def test_a_longer_retention_makes_no_work_void_and_another_method_does() -> None:
    before, longer, other = (
        Policy(),
        Policy.parse("defaults: {keep: {warm: 91d}}"),
        Policy.parse("defaults: {hide: {method: blur}}"),
    )
    assert before.digest != longer.digest
    assert before.digest_of("hide") == longer.digest_of("hide") != other.digest_of("hide")
    assert before.digest_of("look") == other.digest_of("look")


def test_naming_a_site_without_rules_of_its_own_changes_nothing() -> None:
    assert Policy.parse("sites: {a: {time_zone: Europe/Berlin}}").digest_of("hide", "look") == Policy().digest_of(
        "hide", "look"
    )
