"""Commits of one flush.

Owns how a change becomes a snapshot with its positions, and what is left of one that does not.

- Files, positions and property are one commit of the catalog and one snapshot.
- pyiceberg's own retry is off: it would put the rows on top of those of another process without a look at the
  positions.
- What failed before the catalog was asked, or was refused by it, leaves no file. Where nobody knows whether the commit
  came its files stay: they may be the table's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog
from pyiceberg.exceptions import CommitFailedException, ValidationException
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table, TableProperties, Transaction

from headrace.egress.sdk import TargetUnavailable
from headrace_iceberg.changes import Change, write_change
from headrace_iceberg.data_file import NewFiles
from headrace_iceberg.failures import never_came, translated
from headrace_iceberg.positions import snapshot_value, table_value

EXPIRY_SLACK = 1.25
"""Snapshots expire some at a time: each expiry is a commit of its own."""

_LOG = structlog.get_logger("headrace.egress.iceberg")


def commit(table: Table, change: Change, positions: Mapping[int, int], name: str, place: str) -> Table:
    """The table with this change and these positions, under the property `name`."""
    new = NewFiles(table)
    # In memory only: the property is not among what is committed.
    no_retry = {**table.metadata.properties, TableProperties.COMMIT_NUM_RETRIES: "0"}
    table.metadata = table.metadata.model_copy(update={"properties": no_retry})
    transaction = table.transaction()
    try:
        removed = write_change(table, change, new, place)
        _stage(transaction, removed, new.files, positions, name)
    except BaseException:
        _forget(transaction, new)
        raise
    try:
        return transaction.commit_transaction()
    except (CommitFailedException, ValidationException):
        new.discard()
        raise
    except Exception as error:
        if never_came(error):
            _forget(transaction, new)
        raise


def expire(table: Table, snapshots_max: int, place: str) -> None:
    """Forget the oldest snapshots; the newest, and those with a name, stay."""
    snapshots = sorted(table.metadata.snapshots, key=lambda each: each.sequence_number or 0)
    if len(snapshots) <= snapshots_max * EXPIRY_SLACK:
        return
    named = {each.snapshot_id for each in table.metadata.refs.values()}
    old = [each.snapshot_id for each in snapshots[:-snapshots_max] if each.snapshot_id not in named]
    try:
        with translated(place):
            table.maintenance.expire_snapshots().by_ids(old).commit()
    except TargetUnavailable as error:
        # The rows are there. The next flush expires them.
        _LOG.warning("snapshots did not expire", table=place, error=str(error))


def _stage(
    transaction: Transaction,
    removed: Sequence[DataFile],
    added: Sequence[DataFile],
    positions: Mapping[int, int],
    name: str,
) -> None:
    update = transaction.update_snapshot(snapshot_properties={name: snapshot_value(positions)})
    with update.overwrite() if removed else update.merge_append() as producer:
        for file in removed:
            producer.delete_data_file(file)
        for file in added:
            producer.append_data_file(file)
    snapshot = transaction.table_metadata.current_snapshot()
    assert snapshot is not None
    transaction.set_properties({name: table_value(positions, snapshot.snapshot_id)})


def _forget(transaction: Transaction, new: NewFiles) -> None:
    for producer in transaction._snapshot_producers:
        producer._clean_all_uncommitted()
    new.discard()
