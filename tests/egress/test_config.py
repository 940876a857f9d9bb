"""`egress/*.yaml`: what it says, and mistakes with file, line and cure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headrace.egress.config import EgressConfig, connector_config, load_egress
from headrace.egress.errors import ConnectorUnknown, EgressInvalid
from headrace.egress.sdk import Mode, connector_names, load_connector
from headrace.errors import HeadraceError, Where
from tests.egress.memory_target import MemoryConnector, MemoryOptions, Target

GOOD = """topic: orders
connector: memory
mode: upsert
options:
  table: sales
columns: {order_id: id, total: amount}
filter: amount > 0
batch: {rows_max: 500, bytes_max: 65536, age_max_ms: 250}
retry: {attempts_max: 7, first_ms: 10, max_ms: 1000}
rows_per_second_max: 1000
drift: {add: refuse, drop: apply}
owner: shop
"""


def load(folder: Path, text: str) -> EgressConfig:
    (folder / "sales.yaml").write_text(text)
    return load_egress(folder / "sales.yaml")


def refusal(folder: Path, text: str) -> HeadraceError:
    connector = MemoryConnector(Target(modes=frozenset({Mode.APPEND, Mode.UPSERT})))
    with pytest.raises(HeadraceError) as raised:
        connector_config(load(folder, text), connector)
    return raised.value


def test_a_whole_file(tmp_path: Path) -> None:
    """Every key arrives; the name is that of the file, and with it group and dead-letter topic."""
    config = load(tmp_path, GOOD)
    assert (config.name, config.topic, config.mode) == ("sales", "orders", Mode.UPSERT)
    assert config.columns == {"order_id": "id", "total": "amount"}
    assert (config.batch.rows_max, config.batch.bytes_max, config.batch.age_max_ms) == (500, 65536, 250)
    assert (config.retry.attempts_max, config.rows_per_second_max) == (7, 1000)
    assert (config.drift.add, config.drift.drop, config.drift.widen) == ("refuse", "apply", "apply")
    assert (config.group("shop"), config.dead_letter_topic) == ("shop.egress.sales", "sales.dlq")
    options = connector_config(config, MemoryConnector(Target())).options
    assert isinstance(options, MemoryOptions)
    assert options.table == "sales"


def test_columns_as_a_list(tmp_path: Path) -> None:
    """A list takes columns under their own names."""
    assert load(tmp_path, "topic: t\nconnector: c\nmode: append\ncolumns: [b, a]\n").columns == {"b": "b", "a": "a"}


@pytest.mark.parametrize(
    ("line", "change", "message", "cure"),
    [
        (1, ("topic: orders\n", ""), "'topic' is missing", "add `topic: ...`"),
        (3, ("mode: upsert", "mode: upsrt"), "'mode'", ""),
        (3, ("mode: upsert", "mode: replicate"), "connector 'memory' has no mode 'replicate'", "append, upsert"),
        (5, ("table: sales", "tabel: sales"), "unknown key 'options.tabel'", "did you mean 'table'?"),
        (5, ("table: sales", "size: big"), "'options.size': .*integer", ""),
        (6, ("columns: {order_id: id, total: amount}", "columns: [id, id]"), "'columns'.*stands twice", ""),
        (8, ("rows_max: 500", "rows_max: 0"), "'batch.rows_max': .*greater than or equal to 1", ""),
        (8, ("rows_max: 500", "rows_mx: 5"), "unknown key 'batch.rows_mx'", "take it out"),
        (10, ("rows_per_second_max", "rows_per_second_mx"), "unknown key", "did you mean 'rows_per_second_max'?"),
        (11, ("add: refuse", "add: maybe"), "'drift.add'", ""),
        (12, ("owner: shop", "owner: ]shop"), "not YAML", ""),
    ],
)
def test_mistakes_name_file_and_line(
    tmp_path: Path, line: int, change: tuple[str, str], message: str, cure: str
) -> None:
    """Each mistake is told with the file, the line where it stands (1 for what is missing) and the cure."""
    error = refusal(tmp_path, GOOD.replace(*change))
    assert error.where is not None
    assert error.where.file == str(tmp_path / "sales.yaml")
    assert error.where.line == line
    assert re.search(message, error.message), error.message
    assert cure in error.cure


@pytest.mark.parametrize("name", ["Sales", "1st", "a b", "x" * 65])
def test_names_that_no_topic_or_group_could_have(tmp_path: Path, name: str) -> None:
    """The name becomes part of a topic and a group."""
    error = refusal(tmp_path, f"name: {name}\n{GOOD}")
    assert isinstance(error, EgressInvalid)
    assert "'name'" in error.message


def test_an_unknown_connector_tells_what_is_installed() -> None:
    """A near name is proposed, for others the package that would have it; the place is the file's."""
    assert {"duckdb", "parquet"} <= set(connector_names())
    with pytest.raises(ConnectorUnknown, match=r"egress/x\.yaml:2: no connector 'duckdbb'; did you mean 'duckdb'\?"):
        load_connector("duckdbb", where=Where("egress/x.yaml", 2))
    with pytest.raises(ConnectorUnknown, match=r"install headrace-oracle; installed: duckdb, .*parquet"):
        load_connector("oracle")


def test_installed_connectors_say_what_they_promise() -> None:
    """The connectors that come with headrace deliver exactly once."""
    for name in ("duckdb", "parquet"):
        assert load_connector(name).capabilities.delivery == "exactly_once"
