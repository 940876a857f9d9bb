"""Pipeline files: loading, isolation, errors of users' code, and pipelines that read each other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import headrace as hr
from headrace.flow.compile import compile_pipelines
from headrace.flow.errors import DuplicateName, TopicConflict, UnknownTopic, UserCodeFailed
from headrace.flow.load import load_pipelines, read_pipelines
from tests.flow.samples import CONTRACTS, load_text

PAID = """
import headrace as hr

@hr.pipeline(owner="sales")
def paid():
    return hr.stream("orders").filter("paid").to("orders.paid")
"""


def names(folder: Path, text: str) -> list[str]:
    return [each.plan.name for each in load_text(folder, text)]


def test_a_file_has_its_pipelines(tmp_path: Path) -> None:
    """All decorated functions, those made in loops and by helpers included; a file may have none."""
    assert names(tmp_path, PAID) == ["paid"]
    loop = """
import headrace as hr

def make(status):
    @hr.pipeline(name=f"orders_{status.lower()}")
    def each():
        return hr.stream("orders").filter(hr.col("status") == status).to(f"orders.{status.lower()}")
    return each

for status in ("OPEN", "PAID"):
    make(status)
"""
    assert names(tmp_path, loop) == ["orders_open", "orders_paid"]
    assert names(tmp_path, "x = 1\n") == []


def test_a_plan_has_the_files_lines(tmp_path: Path) -> None:
    """Places are the user's file and lines."""
    (result,) = load_text(tmp_path, PAID)
    assert result.plan.place.file == str(tmp_path / "pipelines.py")
    assert {step.place.line for step in result.plan.steps if step.place} == {6}


def test_imports_beside_the_file(tmp_path: Path) -> None:
    """Files beside it are importable, their pipelines are theirs, and nothing is left behind in the process."""
    (tmp_path / "shared.py").write_text(PAID + "LIMIT = 3\n")
    text = """
import headrace as hr
from shared import LIMIT, paid

@hr.pipeline
def big():
    return hr.stream("orders").filter(hr.col("amount") > LIMIT).to("orders.big")
"""
    assert names(tmp_path, text) == ["big"]
    assert "shared" not in sys.modules
    assert str(tmp_path) not in sys.path


def test_loading_again_reads_again(tmp_path: Path) -> None:
    """An edited file, and an edited file beside it, count at the next load."""
    head = "import headrace as hr\nfrom shared import TOPIC\n@hr.pipeline\n"
    text = head + "def p(): hr.stream('orders').filter('paid').to(TOPIC)\n"
    (tmp_path / "shared.py").write_text("TOPIC = 'one'\n")
    assert load_text(tmp_path, text)[0].plan.outputs[0].topic == "one"
    (tmp_path / "shared.py").write_text("TOPIC = 'three'\n")
    assert load_text(tmp_path, text)[0].plan.outputs[0].topic == "three"


def test_an_edited_function_has_another_digest(tmp_path: Path) -> None:
    """A plan shows that a function was edited, and not that lines above it were."""
    text = """
import headrace as hr

def change(row):
    return {"x": 1}

@hr.pipeline
def p():
    hr.stream("orders").map(change, schema={"x": int}).to("out")
"""

    def digest(version: str) -> str:
        (result,) = load_text(tmp_path, version)
        step = result.plan.step("map_change")
        return step.function.digest  # type: ignore[union-attr]

    first = digest(text)
    assert digest("# a comment\n" + text) == first
    assert digest(text.replace('"x": 1', '"x": 2')) != first


def test_dataclasses_and_type_hints_work(tmp_path: Path) -> None:
    """The module can be found by name while it runs, as dataclasses need."""
    text = "from __future__ import annotations\nimport dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int = 0\n"
    assert names(tmp_path, text + PAID) == ["paid"]


BROKEN = [
    ("import headrace as hr\nx = = 1\n", 2, "SyntaxError: invalid syntax"),
    ("def f():\nreturn 1\n", 2, "IndentationError"),
    ("import nothing_like_it\n", 1, "ModuleNotFoundError: No module named 'nothing_like_it'"),
    ("\n\nraise ValueError('no')\n", 3, "ValueError: no"),
    ("def f():\n    return {}['x']\nf()\n", 2, "KeyError: 'x'"),
    ("import sys\nsys.exit(3)\n", 2, "SystemExit: 3"),
    ("x = '\0'\n", 0, "null bytes"),
]


@pytest.mark.parametrize(("text", "line", "message"), BROKEN, ids=[each[2] for each in BROKEN])
def test_broken_files_are_named_with_their_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    """Whatever a file raises is a typed error at the user's line; nothing of it stays importable."""
    with pytest.raises(UserCodeFailed) as caught:
        load_text(tmp_path, text)
    assert message in caught.value.message
    assert caught.value.where is not None
    assert (caught.value.where.file, caught.value.where.line) == (str(tmp_path / "pipelines.py"), line)
    assert str(tmp_path) not in sys.path


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A path that cannot be read is an error that says so."""
    with pytest.raises(UserCodeFailed, match="cannot be read: No such file"):
        load_pipelines(tmp_path / "none.py", CONTRACTS)


CHAIN = """
import headrace as hr

@hr.pipeline
def last():
    return hr.stream("orders.big").filter("paid").to("orders.big.paid")

@hr.pipeline
def first():
    return hr.stream("orders").filter(hr.col("amount") > 3).to("orders.big")
"""


def test_pipelines_may_read_each_others_topics(tmp_path: Path) -> None:
    """They are compiled in the order in which they can run, with the inferred contract between them."""
    found = load_text(tmp_path, CHAIN)
    assert [each.plan.name for each in found] == ["first", "last"]
    source = found[1].plan.steps[0]
    assert [column.name for column in source.columns] == [column.name for column in found[0].plan.steps[-1].columns]
    assert source.key == ("order_id",)
    lineage = {field.topic for column in source.columns for field in column.lineage}
    assert lineage == {"orders.big"}


def test_a_circle_is_refused(tmp_path: Path) -> None:
    """Pipelines that wait for each other are refused with the topic that is missing."""
    with pytest.raises(UnknownTopic, match=r"orders\.big"):
        load_text(tmp_path, CHAIN.replace('hr.stream("orders")', 'hr.stream("orders.big.paid")'))


def test_a_topic_has_one_writer_and_a_name_one_pipeline(tmp_path: Path) -> None:
    """Two pipelines on one topic, or of one name, are refused."""
    text = PAID + PAID.replace("def paid", "def also_paid")
    with pytest.raises(TopicConflict, match="written by pipeline 'paid' too"):
        load_text(tmp_path, text)
    with pytest.raises(DuplicateName, match="'paid' is defined at"):
        load_text(tmp_path, PAID + PAID)


def test_files_can_be_compiled_together(tmp_path: Path) -> None:
    """A workspace reads all files first and compiles them as one."""
    last, first = CHAIN.split("@hr.pipeline\ndef first")
    (tmp_path / "a.py").write_text(last)
    (tmp_path / "b.py").write_text("import headrace as hr\n@hr.pipeline\ndef first" + first)
    pipelines = [each for name in ("a.py", "b.py") for each in read_pipelines(tmp_path / name)]
    assert [each.plan.name for each in compile_pipelines(pipelines, CONTRACTS)] == ["first", "last"]


def test_public_names() -> None:
    """Every public name can be loaded, and an unknown one is an AttributeError."""
    for name in hr.__all__:
        assert getattr(hr, name) is not None
    assert set(hr.__all__) <= set(dir(hr))
    with pytest.raises(AttributeError, match="no attribute 'gliding'"):
        _ = hr.gliding  # type: ignore[attr-defined]


def test_importing_headrace_loads_no_room() -> None:
    """A service that only imports headrace pays for nothing; names are loaded when used."""
    import subprocess

    code = "import sys, headrace; print([m for m in sys.modules if m in ('polars', 'pyarrow', 'confluent_kafka')])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
