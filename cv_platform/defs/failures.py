"""Failures that no retry mends: said once, in a sentence, and not tried again by anybody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import dagster as dg

RETRY_TAG: Final = "dagster/retry_on_asset_or_op_failure"

# By name: their modules are heavy. What they have in common is that somebody has to change a file or a setting.
PERMANENT: Final = frozenset(
    {
        "cv_platform.governance.policy.PolicyError",
        "cv_platform.governance.keys.KeyEncryptionKeyError",
        "cv_platform.vision.models.ModelRefused",
    }
)


def is_permanent(error: BaseException) -> bool:
    """Whether another attempt would end the same."""
    return any(f"{kind.__module__}.{kind.__qualname__}" in PERMANENT for kind in type(error).__mro__)


@contextmanager
def permanent_failures_end_it(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> Iterator[None]:
    """Turn a permanent failure into one that neither the step's retry policy nor the run's retries try again."""
    try:
        yield
    except Exception as error:
        if not is_permanent(error):
            raise
        context.instance.add_run_tags(context.run_id, {RETRY_TAG: "false"})
        raise dg.Failure(f"{type(error).__name__}: {error}", allow_retries=False) from error
