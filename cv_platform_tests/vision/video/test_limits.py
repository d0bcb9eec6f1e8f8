from __future__ import annotations

import pickle

import pytest

from cv_platform.vision.video.limits import REASONS, ClipLimits, ClipRejected

LIMITS = ClipLimits(max_bytes=1000, max_duration_s=10, max_pixels=100 * 100, min_side_px=16, max_frames=50)


@pytest.mark.parametrize(
    ("check", "code", "said"),
    [
        (lambda: LIMITS.check_bytes(0), "empty_file", "empty"),
        (lambda: LIMITS.check_bytes(1001), "too_large", "MiB"),
        (lambda: LIMITS.check_duration(10.5), "too_long", "at most 10 s"),
        (lambda: LIMITS.check_size(101, 100), "too_many_pixels", "at most 10,000"),
        (lambda: LIMITS.check_size(15, 100), "too_small", "at least 16"),
        (lambda: LIMITS.check_frames(51), "too_many_frames", "more than 50"),
    ],
)
def test_what_is_over_a_limit_is_refused_with_what_is_allowed(check, code, said) -> None:
    with pytest.raises(ClipRejected) as refused:
        check()
    assert refused.value.reason_code == code
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_exactly_at_a_limit_is_accepted() -> None:
    LIMITS.check_bytes(1000)
    LIMITS.check_duration(10)
    LIMITS.check_size(100, 100)
    LIMITS.check_size(16, 16)
    LIMITS.check_frames(50)


@pytest.mark.parametrize("field", ["max_bytes", "max_duration_s", "max_memory_bytes", "max_damaged_share"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_limits_that_allow_nothing_are_refused(field, value) -> None:
    with pytest.raises(ValueError, match=field):
        ClipLimits(**{field: value})


def test_a_refusal_survives_pickling() -> None:
    refused = pickle.loads(pickle.dumps(ClipRejected("too_long", "the clip lasts 9 s")))
    assert (refused.reason_code, str(refused)) == ("too_long", "the clip lasts 9 s")


def test_a_refusal_needs_a_known_reason_and_has_words_for_each() -> None:
    with pytest.raises(ValueError, match="bad_mood"):
        ClipRejected("bad_mood")
    for code, words in REASONS.items():
        assert str(ClipRejected(code)) == words
