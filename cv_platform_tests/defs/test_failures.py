"""What no retry mends is tried once; what may pass is tried again."""

import dagster as dg
import pytest

from cv_platform.defs.failures import PERMANENT, RETRY_TAG, is_permanent, permanent_failures_end_it
from cv_platform.governance.keys import KeyEncryptionKeyError
from cv_platform.governance.policy import PolicyError
from cv_platform.vision.models import ModelRefused, ModelUnavailable


@pytest.mark.parametrize("error", [PolicyError("x"), KeyEncryptionKeyError("x"), ModelRefused("x")])
def test_permanent(error: Exception) -> None:
    assert is_permanent(error)
    assert f"{type(error).__module__}.{type(error).__qualname__}" in PERMANENT


@pytest.mark.parametrize("error", [ModelUnavailable("x"), OSError("x"), RuntimeError("x"), ValueError("x")])
def test_passing(error: Exception) -> None:
    assert not is_permanent(error)


@pytest.mark.parametrize(
    ("error", "attempts", "tag"), [(PolicyError("mend the file"), 1, "false"), (OSError(), 3, None)]
)
def test_attempts(error: Exception, attempts: int, tag: str | None) -> None:
    tried: list[int] = []

    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=2, delay=0))
    def broken(context: dg.AssetExecutionContext) -> None:
        with permanent_failures_end_it(context):
            tried.append(1)
            raise error

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([broken], instance=instance, raise_on_error=False)
        assert not result.success
        assert len(tried) == attempts
        run = instance.get_run_by_id(result.run_id)
        assert run is not None
        assert run.tags.get(RETRY_TAG) == tag
