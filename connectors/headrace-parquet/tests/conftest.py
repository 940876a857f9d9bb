"""A store that speaks S3's protocol, for this connector's tests: a stand-in unless `HEADRACE_TEST_S3` names one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headrace.testing.kafka_service import is_required
from headrace.testing.s3_service import S3Missing, S3Store, s3_service


@pytest.fixture(scope="session")
def s3_store() -> Iterator[S3Store]:
    """Shared: make a bucket of your own in it. Its keys are in the environment, as options refer to them."""
    try:
        with s3_service() as store, pytest.MonkeyPatch.context() as patch:
            patch.setenv("LAKE_KEY_ID", store.access_key_id)
            patch.setenv("LAKE_KEY", store.secret_access_key)
            yield store
    except S3Missing as reason:
        if is_required():
            raise
        pytest.skip(str(reason))
