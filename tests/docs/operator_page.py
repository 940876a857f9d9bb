"""Pages of operators: contracts as YAML; pipelines as Python, each followed by its input and its output as JSON.

Input is a list of `{topic: row}` in order of arrival, output the rows of the pipeline's only topic. Times are ISO text.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headrace.contracts.contract import Contract
from headrace.contracts.load import load_contract
from headrace.flow.load import load_pipelines
from headrace.testing import Driver

DOCS = Path(__file__).parent.parent.parent / "docs" / "operators"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class OperatorPage:
    """One page."""

    def __init__(self, name: str) -> None:
        self.text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
        blocks = BLOCK.findall(self.text)
        self._contracts = [text for language, text in blocks if language == "yaml"]
        self.pipelines = [text for language, text in blocks if language == "python"]
        shown = [json.loads(text) for language, text in blocks if language == "json"]
        self.inputs, self.outputs = shown[::2], shown[1::2]
        assert len(self.inputs) == len(self.outputs) == len(self.pipelines), "each pipeline has its input and output"

    def result(self, number: int, folder: Path, *, at_once: bool) -> list[dict[str, Any]]:
        """What a pipeline of the page makes of its input, in one batch or row by row."""
        contracts = self._load_contracts(folder)
        path = folder / "pipeline.py"
        path.write_text(self.pipelines[number])
        (compiled,) = load_pipelines(path, contracts)
        (output,) = compiled.plan.outputs
        rows = [
            (topic, _in_types(row, contracts[topic])) for each in self.inputs[number] for topic, row in each.items()
        ]
        with Driver(compiled, contracts=contracts) as driver:
            batches = [len(rows)] if at_once else [1] * len(rows)
            driver.publish_many([(topic, row, None) for topic, row in rows], batches=batches)
            return [{name: _as_text(value) for name, value in row.items()} for row in driver.rows(output.topic)]

    def _load_contracts(self, folder: Path) -> dict[str, Contract]:
        found = []
        for number, text in enumerate(self._contracts):
            path = folder / f"contract{number}.yaml"
            path.write_text(text)
            found.append(load_contract(path))
        return {contract.topic: contract for contract in found}


def _in_types(row: dict[str, Any], contract: Contract) -> dict[str, Any]:
    times = {field.name for field in contract.schema.fields if "timestamp" in str(field.type)}
    return {name: datetime.fromisoformat(value) if name in times else value for name, value in row.items()}


def _as_text(value: Any) -> Any:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value
