"""Catalogs: opened to be used, or only looked at.

Owns how a catalog is opened. One that is only looked at makes no file, no table and no column, of the catalog's own
database neither.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import sqlalchemy
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.catalog.sql import IcebergTables, SqlCatalog

from headrace.egress.local_folder import folder_problems
from headrace.egress.sdk import TargetInvalid
from headrace_iceberg.options import IcebergOptions

_LEAVE_ALONE = {"init_catalog_tables": "false", "schema_version": "v0"}
"""Else pyiceberg makes or alters the database's tables as it opens."""


def open_catalog(options: IcebergOptions, **more: str) -> Catalog:
    """`more`: pyiceberg's own properties, which come before those of the options."""
    _check_warehouse(options)
    kind = "rest" if options.is_rest else "sql"
    return load_catalog(options.catalog, type=kind, **{**options.catalog_properties(), **more})


def look_at_catalog(options: IcebergOptions) -> Catalog | None:
    """The catalog as it is; None where its database is yet to be made."""
    if options.is_rest:
        return open_catalog(options)
    _check_warehouse(options)
    file = _sqlite_file(options)
    if file is not None and not file.exists():
        return None
    catalog = open_catalog(options, **_LEAVE_ALONE)
    assert isinstance(catalog, SqlCatalog)
    if sqlalchemy.inspect(catalog.engine).has_table(IcebergTables.__tablename__):
        return catalog
    catalog.close()
    return None


def catalog_file_problems(options: IcebergOptions) -> list[str]:
    """Of the file of a catalog in SQLite, which is made without its folder."""
    file = None if options.is_rest else _sqlite_file(options)
    if file is None:
        return []
    if file.exists():
        is_writable = os.access(file, os.W_OK) and os.access(file.parent, os.W_OK | os.X_OK)
        return [] if is_writable else [f"{file}: not writable; give the egress a catalog that it may write"]
    if not file.parent.exists():
        return [f"{file.parent}: no such folder; make the folder of the catalog's file, or correct `uri`"]
    return folder_problems(file.parent)


def place_problems(location: str) -> list[str]:
    """Of a folder of this machine where files of a table are to be; elsewhere only a write tells."""
    parts = urlsplit(location)
    return folder_problems(Path(parts.path)) if parts.scheme in ("", "file") else []


def _check_warehouse(options: IcebergOptions) -> None:
    if not options.is_rest and options.warehouse is None:
        raise TargetInvalid("a SQL catalog has no place for tables", cure="set `warehouse`")


def _sqlite_file(options: IcebergOptions) -> Path | None:
    database = sqlalchemy.make_url(options.catalog_properties()["uri"])
    is_file = database.get_backend_name() == "sqlite" and database.database not in (None, "", ":memory:")
    return Path(str(database.database)) if is_file else None
