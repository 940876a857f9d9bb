"""Parquet files of one topic in S3 or a store that speaks its protocol.

Owns the objects below `<prefix>/<topic>/<partition>/`; one is `<first offset>.parquet`.

- The name of a partition's next file follows from the file before it alone, and the store takes a name once
  (`If-None-Match`): of two processes that go on from the same offset one gets in, however many rows each has. With the
  last offset in the name both would.
- An object is one PUT, not a multipart upload: it appears whole or not at all, and a crash leaves no parts behind.
- A PUT whose answer was lost is sent again and finds the name taken. So `PositionMoved` may mean ourselves: the
  connector is opened again and finds its own file delivered.
- A store that takes a name twice is found out when the target opens, before it can lose anything.
- Opening costs about `2 * log2(files / 1,000)` list requests for each partition, at most 130, however many files there
  are, and one or two reads of the newest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from headrace.egress.sdk import EgressError, TargetInvalid, TargetUnavailable
from headrace_parquet.files import LAST_OFFSET_METADATA, OFFSET_DIGITS, Covered, moved, write_parquet
from headrace_parquet.options import ParquetOptions

PAGE_OBJECTS = 1_000
"""As many as S3 gives in one answer."""
OBJECT_BYTES_MAX = 5 * 1024**3
"""S3's limit of one PUT."""
FOOTER_BYTES = 64 * 1024
"""Read from the end of the newest file at once; a larger footer takes another read."""
CONNECT_TIMEOUT_S = 5.0
RETRIES_MAX = 3
RETRY_TIMEOUT_S = 20.0
"""All tries of one request together; then the runner waits, serves its group and opens the target again."""
PARTITIONS_CHECKED_MAX = 10
"""That a check looks into: each costs the requests of opening it."""
PROBE = "_headrace_takes_a_name_once"
"""An empty object. Query engines leave out what begins with `_`."""

_NAME = re.compile(rf"(\d{{{OFFSET_DIGITS}}})\.parquet")
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_PASSING_CODES = frozenset(
    {
        *("ExpiredToken", "RequestTimeout", "RequestTimeTooSkewed", "SlowDown"),
        *("QuotaExceeded", "InsufficientStorage", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull"),
    }
)
"""Told with a status of the client's fault, and yet over when it is tried again: a store over its quota among them."""


class Page(NamedTuple):
    """First offsets of the next files, in order; `is_last`: there are no more after them."""

    first_offsets: Sequence[int]
    is_last: bool


class Bucket:
    """A `Files`."""

    def __init__(self, options: ParquetOptions, topic: str) -> None:
        self._options = options
        bucket, prefix = options.bucket_and_prefix()
        self._prefix = f"{prefix}/{topic}" if prefix else topic
        self._place = f"s3://{bucket}/{self._prefix}"
        self._store = _store(bucket, options)

    def open(self, partitions: Sequence[int]) -> dict[int, int]:
        """See that names are taken once, then find the newest file of each partition."""
        with _translated(self._place):
            self._check_store()
            next_offsets = {}
            for partition in partitions:
                newest = newest_first_offset(partial(self._page, partition))
                if newest is not None:
                    next_offsets[partition] = self._last_offset(self._name(partition, newest)) + 1
            return next_offsets

    def problems(self) -> list[str]:
        """Whether the prefix can be listed, and the newest file of some partitions read.

        The right to write, and whether names are taken once, are not asked: S3 tells them of a write alone.
        """
        with _translated(self._place):
            folders = obstore.list_with_delimiter(self._store, f"{self._prefix}/")["common_prefixes"]
            names = (each.rstrip("/").rpartition("/")[2] for each in folders)
            for partition in sorted(int(each) for each in names if each.isdecimal())[:PARTITIONS_CHECKED_MAX]:
                newest = newest_first_offset(partial(self._page, partition))
                if newest is not None:
                    self._last_offset(self._name(partition, newest))
        return []

    def add(self, partition: int, covered: Covered, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        write_parquet(table, covered, sink, self._options)
        file = sink.getvalue()
        if file.size > OBJECT_BYTES_MAX:
            cure = "lower `bytes_max` or `rows_max` of `batch:`"
            raise TargetInvalid(f"{self._place}: a file of {file.size:,} bytes is more than S3 takes", cure=cure)
        with _translated(self._place):
            try:
                # obstore takes unsigned bytes only, and Arrow's buffers call theirs signed.
                self._put(self._name(partition, covered.first), memoryview(file).cast("B"))
            except AlreadyExistsError as error:
                raise moved(f"{self._place}/{partition}", covered.first) from error

    def _check_store(self) -> None:
        """Some stores ignore `If-None-Match`, and would let two processes overwrite each other's rows."""
        try:
            self._put(f"{self._prefix}/{PROBE}", b"")
            self._put(f"{self._prefix}/{PROBE}", b"")
        except AlreadyExistsError:
            return
        raise TargetInvalid(
            f"{self._place}: the store ignores If-None-Match, so nothing can be delivered exactly once",
            cure="use a store with conditional writes",
        )

    def _put(self, name: str, body: Any) -> None:
        obstore.put(self._store, name, body, mode="create", use_multipart=False)

    def _page(self, partition: int, after: int | None) -> Page:
        """The files after the one whose name would begin with this offset."""
        folder = f"{self._prefix}/{partition}/"
        start = None if after is None else self._name(partition, after)
        found: list[int] = []
        for objects in obstore.list(self._store, folder, offset=start, chunk_size=PAGE_OBJECTS):
            names = (_NAME.fullmatch(each["path"].rpartition("/")[2]) for each in objects)
            found += [int(match.group(1)) for match in names if match is not None]
            if found:  # Else what is there is not ours.
                return Page(found, len(objects) < PAGE_OBJECTS)
        return Page(found, True)

    def _last_offset(self, name: str) -> int:
        end = self._end(name, FOOTER_BYTES)
        footer_bytes = int.from_bytes(end[-8:-4], "little") + 8
        if footer_bytes > len(end):
            end = self._end(name, footer_bytes)
        metadata = pq.read_metadata(pa.BufferReader(end)).metadata or {}
        if LAST_OFFSET_METADATA not in metadata:
            cure = "move it away, or write to another path"
            raise TargetInvalid(f"{self._place}: {name} was not written by this connector", cure=cure)
        return int(metadata[LAST_OFFSET_METADATA])

    def _end(self, name: str, count: int) -> bytes:
        return obstore.get(self._store, name, options={"range": {"suffix": count}}).bytes().to_bytes()

    def _name(self, partition: int, first: int) -> str:
        return f"{self._prefix}/{partition}/{first:0{OFFSET_DIGITS}d}.parquet"


def newest_first_offset(page: Callable[[int | None], Page]) -> int | None:
    """The largest offset that a name begins with. `page(after)` lists the names after an offset, some at a time.

    S3 lists names upwards only. So the search jumps ahead, twice as far each time, until nothing is listed, and then
    halves the gap: pages of the logarithm of the number of files, not of the number of files.
    """
    offsets, is_last = page(None)
    if not offsets:
        return None
    low, step = offsets[-1], max(1, offsets[-1] - offsets[0])
    high: int | None = None
    """Nothing is after this one."""
    while not is_last:
        middle = low + step if high is None else (low + high) // 2
        offsets, last_of_all = page(min(middle, 10**OFFSET_DIGITS - 1))
        if offsets:
            low, step, is_last = offsets[-1], 2 * step, last_of_all
        else:
            high = middle
            is_last = high <= low
    return low


def _store(bucket: str, options: ParquetOptions) -> S3Store:
    config = options.client_config()
    return S3Store(
        bucket,
        config=config,  # type: ignore[arg-type]  # Its keys are those of the options.
        client_options={
            "timeout": timedelta(milliseconds=options.timeout_ms),
            "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
            "allow_http": config.get("endpoint", "").startswith("http://"),
        },
        retry_config={"max_retries": RETRIES_MAX, "retry_timeout": timedelta(seconds=RETRY_TIMEOUT_S)},
    )


@contextmanager
def _translated(place: str) -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError) as error:
        raise classified(place, error) from error
    except pa.ArrowInvalid as error:
        raise TargetInvalid(f"{place}: its newest file is no Parquet: {error}", cure="move it away") from error


def classified(place: str, error: Exception) -> EgressError:
    """What an error of the store asks for: another try, or somebody to change something first."""
    # The text goes on with the request's inner parts: status and code say all, and hold no secret.
    text = str(error)
    found_status, found_code = _STATUS.search(text), _CODE.search(text)
    status, code = int(found_status.group(1)) if found_status else 0, found_code.group(1) if found_code else ""
    told = f"{place}: {f'{status} {code}'.strip() if status else text.splitlines()[0]}"
    if code in _PASSING_CODES or status == 429:
        return TargetUnavailable(told)
    if status in (401, 403):
        return TargetInvalid(told, cure="give the egress keys that may list, read and write there")
    if status == 404 or code == "NoSuchBucket":
        return TargetInvalid(told, cure="make the bucket, or correct `path`, `endpoint` and `region`")
    if status == 501:
        return TargetInvalid(told, cure="use a store with conditional writes")
    if 300 <= status < 500 or "redirect" in text.splitlines()[0]:
        return TargetInvalid(told, cure="correct `path`, `endpoint` and `region`")
    return TargetUnavailable(told, cure="" if status else "see that `endpoint` and the credentials' service answer")
