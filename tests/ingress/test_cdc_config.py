"""`ingress/*.yaml`, and tables that do not fit their contracts: told with file and line before anything is made."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, TopicKind
from headrace.errors import HeadraceError
from headrace.ingress.cdc.config import PostgresCdcConfig, SqliteCdcConfig
from headrace.ingress.cdc.infer import infer_contract
from headrace.ingress.cdc.sqlite import SqliteCdc
from headrace.ingress.config import load_ingress
from tests.ingress.fleet import Fleet, planes_contract

GOOD = """kind: sqlite-cdc
database: fleet.db
tables:
  planes: {topic: planes}
poll_interval_ms: 20
batch_rows_max: 100
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


def write(folder: Path, text: str) -> Path:
    path = folder / "ingress" / "fleet.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def sqlite(path: Path) -> SqliteCdcConfig:
    config = load_ingress(path)
    assert isinstance(config, SqliteCdcConfig)
    return config


def test_a_whole_file(tmp_path: Path) -> None:
    """The name is the file's, the database is looked for in the workspace."""
    config = sqlite(write(tmp_path, GOOD))
    assert (config.name, config.database, config.topics) == ("fleet", tmp_path / "fleet.db", ("planes",))
    assert (config.poll_interval_ms, config.batch_rows_max, config.dead_letter_topic) == (20, 100, "fleet.dlq")


@pytest.mark.parametrize(
    ("line", "change", "message"),
    [
        (1, ("kind: sqlite-cdc\n", ""), "'kind' is missing; write `kind: sqlite-cdc [|] .* [|] mysql-cdc [|] gateway`"),
        (1, ("sqlite-cdc", "sqlite-cd"), "unknown kind 'sqlite-cd'; did you mean 'sqlite-cdc'"),
        (2, ("database:", "databas:"), "unknown key 'databas'; did you mean 'database'|'database' is missing"),
        (4, ("topic: planes", "topik: planes"), "'tables.planes.topi[ck]'"),
        (5, ("poll_interval_ms: 20", "poll_interval_ms: 0"), "'poll_interval_ms': .*greater than or equal to 1"),
        (6, ("100", "many"), "'batch_rows_max': .*integer"),
    ],
)
def test_mistakes_name_file_and_line(tmp_path: Path, line: int, change: tuple[str, str], message: str) -> None:
    """Each with the line where it stands and the cure."""
    path = write(tmp_path, GOOD.replace(*change))
    with pytest.raises(HeadraceError) as raised:
        load_ingress(path)
    error = raised.value
    assert error.where is not None
    assert error.where.file == str(path)
    assert error.where.line == line or "is missing" in error.message
    assert re.search(message, f"{error.message}; {error.cure}")


POSTGRES = """kind: postgres-cdc
database: postgresql://me@here/fleet
tables:
  fleet.planes: {topic: planes}
"""


@pytest.mark.parametrize(
    ("line", "change", "message"),
    [
        (2, ("me@here", "me:secret@here"), "a password does not belong in a file"),
        (2, ("postgresql://me@here/fleet", "host=here password=secret"), "a password does not belong in a file"),
        (5, ("planes}\n", "planes}\ntruncates: maybe\n"), "'truncates': .*'write', 'skip' or 'stop'"),
        (5, ("planes}\n", "planes}\nsnapshot_workers: 99\n"), "'snapshot_workers': .*less than or equal to 16"),
    ],
)
def test_mistakes_in_a_file_for_postgres(tmp_path: Path, line: int, change: tuple[str, str], message: str) -> None:
    """Each with its line; the secret is not repeated."""
    path = write(tmp_path, POSTGRES.replace(*change))
    with pytest.raises(HeadraceError, match=message) as raised:
        load_ingress(path)
    assert raised.value.where is not None
    assert raised.value.where.line == line
    assert "secret" not in str(raised.value)


def test_secrets_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`${NAME}` is replaced when the database is opened; one that is not set is named."""
    config = load_ingress(write(tmp_path, POSTGRES.replace("me@here", "me:${FLEET_PASSWORD}@here")))
    assert isinstance(config, PostgresCdcConfig)
    with pytest.raises(HeadraceError, match=r"fleet.yaml:2: environment variable FLEET_PASSWORD is not set"):
        config.connection_string()
    monkeypatch.setenv("FLEET_PASSWORD", "hunter2")
    assert config.connection_string() == "postgresql://me:hunter2@here/fleet"
    assert "hunter2" not in repr(config)


def contract(key: str = "tailnum", kind: TopicKind = TopicKind.CHANGE, **fields: str) -> Contract:
    listed = [{"name": name, "type": each} for name, each in {"tailnum": "string", "seats": "long", **fields}.items()]
    schema = AvroSchema.parse({"type": "record", "name": "Plane", "fields": listed})
    return Contract("planes", schema, kind=kind, key=(key,))


@pytest.mark.parametrize(
    ("contracts", "message"),
    [
        ([], r"fleet.yaml:4: topic 'planes' has no contract; add contracts/planes.yaml"),
        ([contract(kind=TopicKind.TABLE)], r"fleet.yaml:4: topic 'planes' is of kind table.*set `kind: change`"),
        ([contract(wings="int")], "table 'planes' has no column 'wings', which the contract of 'planes' asks for"),
        ([contract(key="seats")], r"the key of 'planes' is \['seats'\], the primary key of 'planes' is \['tailnum'\]"),
    ],
)
def test_contracts_that_do_not_fit_the_table(
    fleet: Fleet, tmp_path: Path, contracts: list[Contract], message: str
) -> None:
    """Nothing is made in the source for a capture that could not run."""
    config = sqlite(write(tmp_path, GOOD))
    with pytest.raises(HeadraceError, match=message):
        SqliteCdc(config, fleet.log, fleet.registry, {each.topic: each for each in contracts}).setup()
    query = "SELECT count(*) FROM sqlite_master WHERE name LIKE '%headrace%'"
    assert fleet.connection.execute(query).fetchone() == (0,)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("DROP TABLE planes", "table 'planes': no such table"),
        ("ALTER TABLE planes RENAME TO p; CREATE VIEW planes AS SELECT * FROM p", "table 'planes': it is a view"),
        ("DROP TABLE planes; CREATE TABLE planes (tailnum TEXT, seats)", "table 'planes' has no primary key"),
    ],
)
def test_tables_that_cannot_be_captured(fleet: Fleet, tmp_path: Path, sql: str, message: str) -> None:
    """Each with its reason."""
    fleet.connection.executescript(sql)
    config = sqlite(write(tmp_path, GOOD))
    with pytest.raises(HeadraceError, match=message):
        SqliteCdc(config, fleet.log, fleet.registry, {"planes": contract()}).setup()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, r"fleet.yaml:2: no database at .*other.db"), (b"not a database" * 100, "intact SQLite database")],
)
def test_databases_that_are_none(fleet: Fleet, tmp_path: Path, content: bytes | None, message: str) -> None:
    """A missing file is never made, a broken one is told."""
    other = tmp_path / "other.db"
    if content is not None:
        other.write_bytes(content)
    config = sqlite(write(tmp_path, GOOD.replace("fleet.db", "other.db")))
    with pytest.raises(HeadraceError, match=message):
        SqliteCdc(config, fleet.log, fleet.registry, {"planes": planes_contract()}).missing()
    assert other.exists() is (content is not None)


def test_two_tables_need_two_topics(fleet: Fleet, tmp_path: Path) -> None:
    """Keys of two tables in one topic would overwrite each other."""
    text = GOOD.replace("  planes: {topic: planes}\n", "  planes: {topic: planes}\n  fleet: {topic: planes}\n")
    with pytest.raises(HeadraceError, match=r"fleet.yaml:5: two tables write to topic 'planes'"):
        SqliteCdc(sqlite(write(tmp_path, text)), fleet.log, fleet.registry, {"planes": planes_contract()})


def test_a_contract_can_be_inferred_from_a_table(tmp_path: Path) -> None:
    """Declared types become Avro types, NOT NULL and the key decide what is nullable; it fits the table as it is."""
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE items (id INTEGER PRIMARY KEY, name VARCHAR(20) NOT NULL, price DECIMAL(9, 2), sold BOOLEAN,"
            " at TIMESTAMP NOT NULL, day DATE, code UUID, data BLOB, share REAL, anything)"
        )
    found = infer_contract(path, "items", topic="shop.items")
    types = {each.name: each.type for each in found.schema.fields}
    assert (found.topic, found.kind, found.key) == ("shop.items", TopicKind.CHANGE, ("id",))
    assert (types["id"], types["name"], types["sold"]) == ("long", "string", ["null", "boolean"])
    assert types["price"] == ["null", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}]
    assert types["at"] == {"type": "long", "logicalType": "timestamp-micros"}
    assert types["day"] == ["null", {"type": "int", "logicalType": "date"}]
    assert (types["data"], types["share"]) == (["null", "bytes"], ["null", "double"])
    assert types["anything"] == ["null", "long", "double", "string", "bytes"]
