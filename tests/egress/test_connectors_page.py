"""`docs/connectors.md` tells the truth: its files load, its connector passes the suite, its tables are complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract
from headrace.egress.capability_table import HEAD, capability_row
from headrace.egress.config import BatchLimits, BreakerLimits, EgressConfig, RetryLimits, connector_config, load_egress
from headrace.egress.metrics import EgressMetrics
from headrace.egress.sdk import DriftPolicy, connector_names, load_connector
from headrace.egress.view import View
from headrace.log.embedded.membership import SESSION_TIMEOUT_MS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "connectors.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found.group(1)


def documented(text: str) -> dict[str, str]:
    """First column of the section's table to the rest of its row; a row may name several keys."""
    rows = re.findall(r"^\|(`.*?)\|(.*)\|$", text, re.MULTILINE)
    return {name: rest for names, rest in rows for name in re.findall(r"`(\w+)`", names)}


def keys(model: type[BaseModel]) -> set[str]:
    return {each.alias or name for name, each in model.model_fields.items() if not each.exclude}


def test_the_example_is_an_egress(tmp_path: Path) -> None:
    """It loads, its connector takes its options, and its columns and filter fit such a topic."""
    (example,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "delays.yaml").write_text(example)
    config = load_egress(tmp_path / "delays.yaml")
    connector_config(config, load_connector(config.connector))
    types = {"carrier": "string", "window_start": "long", "mean_delay": "double", "flights": "long"}
    fields = [{"name": name, "type": each} for name, each in types.items()]
    schema = AvroSchema.parse({"type": "record", "name": "Delay", "fields": fields})
    view = View(config, Contract(config.topic, schema, key=("carrier", "window_start")))
    assert view.contract.key == ("carrier", "hour")


def test_every_key_is_documented_and_no_other() -> None:
    """The table of keys is the model's; what is inside `batch`, `retry` and `drift` is named with its default."""
    rows = documented(section("Keys of an egress file"))
    assert set(rows) == keys(EgressConfig)
    for name, model in (
        ("batch", BatchLimits),
        ("retry", RetryLimits),
        ("breaker", BreakerLimits),
        ("drift", DriftPolicy),
    ):
        assert keys(model) <= set(re.findall(r"`(\w+)`", rows[name]))
    batch, retry, breaker = BatchLimits(), RetryLimits(), BreakerLimits()
    assert rows["breaker"].endswith(f"{breaker.failures_max}; {breaker.open_ms:,}")
    assert rows["batch"].endswith(f"{batch.rows_max:,}; {batch.bytes_max >> 20} MiB; {batch.age_max_ms:,}")
    assert rows["retry"].endswith(f"{retry.first_ms}; {retry.max_ms:,}; no end")


@pytest.mark.parametrize("name", connector_names())
def test_every_option_and_promise_of_each_connector_is_documented(name: str) -> None:
    """Options, modes and guarantee stand on the connector's page."""
    connector, text = load_connector(name), (DOCS / "connectors" / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert "|Option|Meaning|Default|" in text
    assert set(documented(text)) == keys(connector.options_model)
    assert {mode.value for mode in connector.capabilities.modes} <= set(re.findall(r"`(\w+)`", text))
    assert connector.capabilities.delivery.replace("_", " ") in text


def test_the_table_is_that_of_the_code() -> None:
    """One row for each installed connector, as its capabilities say; `capability_row` gives the text to write."""
    expected = [*HEAD, *(capability_row(name, load_connector(name)) for name in connector_names())]
    found = re.findall(r"^\|.*\|$", section("Which connector can do what"), re.MULTILINE)
    assert found == expected, "\n".join(expected)


def test_metrics_are_those_of_the_code() -> None:
    """Names and types."""
    listed = dict(re.findall(r"^\|`(headrace_egress_\w+)`\|(\w+)\|", section("Metrics"), re.MULTILINE))
    families = EgressMetrics(list).collect()
    assert listed == {f"{each.name}_total" if each.type == "counter" else each.name: each.type for each in families}


def test_numbers_are_those_of_the_code() -> None:
    """The session of a dead member."""
    assert f"({SESSION_TIMEOUT_MS // 1000} seconds on the embedded log)" in PAGE


@pytest.mark.slow
def test_the_connector_of_the_page_passes_the_suite(tmp_path: Path) -> None:
    """Connector and test module as they stand on the page, in a project of their own."""
    connector, suite = EXAMPLES
    (tmp_path / "arrow_connector.py").write_text(connector)
    (tmp_path / "test_arrow.py").write_text(suite)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", "target", "test_arrow.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3_000:]
    assert re.search(r"\d+ passed", done.stdout)
    assert "skipped" not in done.stdout
