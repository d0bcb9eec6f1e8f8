"""Calls of the Kubernetes API that outlast its bad minutes: too many requests, a control plane that restarts.

dagster-k8s tries again after 500, 503 and 504, three times and ten seconds apart, and gives up at once after 429. An
API server under load answers just that, for as long as it takes; a run must not end for it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from kubernetes.client import BatchV1Api, CoreV1Api
from kubernetes.client.rest import ApiException
from urllib3.exceptions import MaxRetryError, NewConnectionError, ProtocolError, TimeoutError

PASSING: Final = frozenset({429, 500, 502, 503, 504})
"""Answers that may be another one a moment later."""

READING_S: Final = 20.0
"""Seconds for which a question is asked again: whoever asks can wait for the next round."""
CHANGING_S: Final = 300.0
"""Seconds for which a change is tried again: giving up means a run that fails, or a pod that is left."""
_UNREACHED: Final = (MaxRetryError, NewConnectionError, ProtocolError, TimeoutError)
_FIRST_DELAY_S: Final = 0.5
_LONGEST_DELAY_S: Final = 10.0


class PatientApi:
    """A client of the Kubernetes API whose every call is tried again while the answer may pass.

    Args:
        api: the client, `BatchV1Api` or `CoreV1Api`.
        reading_s, changing_s: seconds after which the last error is raised as it came.
        sleep, clock: of the process; a test hands in its own.
    """

    def __init__(
        self,
        api: Any,
        *,
        reading_s: float = READING_S,
        changing_s: float = CHANGING_S,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api, self._sleep, self._clock = api, sleep, clock
        self._reading_s, self._changing_s = reading_s, changing_s

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._api, name)
        if not callable(found):
            return found
        limit_s = self._reading_s if name.startswith(("read_", "list_")) else self._changing_s

        def call(*arguments: Any, **options: Any) -> Any:
            return self._call(name, found, limit_s, arguments, options)

        return call

    def _call(
        self, name: str, method: Callable[..., Any], limit_s: float, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        deadline = self._clock() + limit_s
        delay_s = _FIRST_DELAY_S
        tries = 0
        while True:
            tries += 1
            try:
                return method(*arguments, **options)
            except ApiException as error:
                # What an earlier try did, though its answer was lost.
                if tries > 1 and name == "create_namespaced_job" and error.status == 409:
                    return None
                if tries > 1 and name.startswith("delete_") and error.status == 404:
                    return None
                if error.status not in PASSING:
                    raise
                wait_s = max(_retry_after_s(error.headers), delay_s)
                if self._clock() + wait_s > deadline:
                    raise
            except _UNREACHED:
                wait_s = delay_s
                if self._clock() + wait_s > deadline:
                    raise
            # Apart from each other: all the pods of a cluster were told off in the same moment.
            self._sleep(wait_s * random.uniform(1.0, 1.5))
            delay_s = min(delay_s * 2, _LONGEST_DELAY_S)


def patient_apis() -> tuple[PatientApi, PatientApi]:
    """Clients for jobs and for pods, by the configuration that is loaded."""
    from dagster_k8s.client import PatchedApiClient

    return PatientApi(BatchV1Api(api_client=PatchedApiClient())), PatientApi(CoreV1Api(api_client=PatchedApiClient()))


def _retry_after_s(headers: Mapping[str, str] | None) -> float:
    """Seconds that the server asks for; 0 where it names none or a date."""
    value = (headers or {}).get("Retry-After", "")
    return float(value) if value.isdigit() else 0.0
