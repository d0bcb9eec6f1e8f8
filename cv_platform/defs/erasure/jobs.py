"""`erase`: executes an approved request, and certifies it when the aggregates are right again."""

import uuid

import dagster as dg

from cv_platform.defs.op_tags import ERASURE, tags_of
from cv_platform.resources.platform import PlatformResource

REQUEST_TAG = "cv/erasure"


class ErasureConfig(dg.Config):
    """Which request; its id tells nothing of whom it is about."""

    request_id: str


@dg.op(
    description="Takes what an approved request covers out of every tier; signs a certificate once the aggregates of"
    " the days touched are built anew. Safe to run again, and twice at once.",
    retry_policy=dg.RetryPolicy(max_retries=3, delay=10, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS),
    tags=tags_of(ERASURE),
)
def erase_request(
    context: dg.OpExecutionContext, config: ErasureConfig, platform: dg.ResourceParam[PlatformResource]
) -> None:
    from cv_platform.governance.erasure import requests
    from cv_platform.governance.erasure.certificate import signing_key_of
    from cv_platform.pipeline import erasure, erasure_proof

    opened = platform.open(run_id=context.run_id, log=context.log)
    try:
        request_id = uuid.UUID(config.request_id)
        state = erasure.execute(opened, request_id, actor=f"run {context.run_id}")
    except (ValueError, LookupError, requests.WrongState) as error:
        # Another attempt would meet the same.
        raise dg.Failure(str(error), allow_retries=False) from None
    certificate = None
    if state == "executed":
        key = signing_key_of(opened.settings)
        certificate = erasure_proof.certify(opened, request_id, actor=f"run {context.run_id}", key=key)
    request = requests.get(opened.database, request_id)
    metadata: dict[str, dg.MetadataValue] = {"state": dg.MetadataValue.text(request.state)}
    if request.detail:
        metadata["detail"] = dg.MetadataValue.text(request.detail)
    if certificate is not None:
        erased = certificate["erased"]
        metadata["clips"] = dg.MetadataValue.int(erased["clips"])
        metadata["keys destroyed"] = dg.MetadataValue.int(erased["keys destroyed"])
        for table, counted in erased["rows"].items():
            metadata[f"rows of {table}"] = dg.MetadataValue.int(counted["rows"])
        for store, counted in erased["objects"].items():
            metadata[f"objects, {store}"] = dg.MetadataValue.int(counted["objects"])
    elif request.state == "executed":
        context.log.info("executed; it is certified when the aggregates of the days touched are built anew")
    context.add_output_metadata(metadata)


@dg.job(description="Executes and certifies an approved erasure request.", tags={"cv/graph": "erasure"})
def erase() -> None:
    erase_request()
