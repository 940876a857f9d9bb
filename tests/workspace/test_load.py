"""A workspace on disk as values: order of pipelines, circles, names, mistakes of files."""

from __future__ import annotations

import pytest

from headrace.contracts.load import ContractsInvalid
from headrace.errors import HeadraceError
from headrace.flow.errors import UnknownTopic
from headrace.workspace.errors import NameTwice, PipelineCycle, UnknownName
from headrace.workspace.load import load

from .conftest import WriteWorkspace

BEST = '''
import headrace as hr


@hr.pipeline(owner="shop")
def best():
    """The best hour of each customer."""
    return (
        hr.stream("customers.revenue")
        .group_by("customer")
        .agg(best=hr.max("revenue"))
        .to("customers.best")
    )
'''


def test_everything_is_read(write_workspace: WriteWorkspace) -> None:
    """Contracts, pipelines and the contracts they derive are there, under the workspace's name."""
    workspace = load(write_workspace())
    assert workspace.name == "shop"
    assert [pipeline.plan.name for pipeline in workspace.pipelines] == ["totals"]
    assert sorted(workspace.topics) == ["customers.revenue", "orders"]
    assert workspace.topics["customers.revenue"].owner == "shop"


def test_order_is_by_need_not_by_name(write_workspace: WriteWorkspace) -> None:
    """A file that sorts first but reads what a later one writes is compiled after it."""
    workspace = load(write_workspace(**{"pipelines/a_best.py": BEST}))
    assert [pipeline.plan.name for pipeline in workspace.pipelines] == ["totals", "best"]
    assert "customers.best" in workspace.topics


def test_circle_names_its_files(write_workspace: WriteWorkspace) -> None:
    """Pipelines that read each other's outputs are refused with both files."""
    ping = BEST.replace("customers.revenue", "pong").replace("customers.best", "ping").replace("best()", "ping()")
    pong = BEST.replace("customers.revenue", "ping").replace("customers.best", "pong").replace("best()", "pong()")
    root = write_workspace(**{"pipelines/ping.py": ping, "pipelines/pong.py": pong})
    with pytest.raises(PipelineCycle, match=r"ping\.py.*'pong'.*pong\.py.*circle"):
        load(root)


def test_missing_contract_is_no_circle(write_workspace: WriteWorkspace) -> None:
    """A topic that nobody writes is told as that, with the place of the call."""
    root = write_workspace(**{"pipelines/best.py": BEST.replace("customers.revenue", "ordrs")})
    with pytest.raises(UnknownTopic, match=r"best\.py:\d+: no contract for topic 'ordrs'; did you mean 'orders'\?"):
        load(root)


def test_names_are_unique(write_workspace: WriteWorkspace) -> None:
    """A pipeline and an egress of one name are refused: names choose what runs."""
    egress = "topic: customers.revenue\nconnector: duckdb\nmode: append\n"
    with pytest.raises(NameTwice, match="'totals'"):
        load(write_workspace(**{"egress/totals.yaml": egress}))


def test_unknown_names_are_told(write_workspace: WriteWorkspace) -> None:
    """A name on the command line that nothing has is told with the nearest."""
    workspace = load(write_workspace())
    workspace.check_names(["totals"])
    with pytest.raises(UnknownName, match=r"'total'; did you mean 'totals'\?"):
        workspace.check_names(["total"])


@pytest.mark.parametrize(
    ("path", "text", "says"),
    [
        ("contracts/orders.yaml", "topic: orders\nfields: [a\n", r"orders\.yaml:\d+"),
        ("contracts/orders.yaml", "topic: orders\nfileds: {a: int}\n", r"orders\.yaml:2: .*did you mean 'fields'"),
        ("pipelines/totals.py", "import headrace as hr\ndef broken(:\n", r"totals\.py:2: SyntaxError"),
        ("pipelines/totals.py", "import headrace as hr\n\n1 / 0\n", r"totals\.py:3: .*ZeroDivisionError"),
        ("headrace.toml", 'name = "shop"\nnmae = "x"\n', r"headrace\.toml:2: unknown key 'nmae'"),
    ],
)
def test_broken_files_are_told_with_their_place(
    write_workspace: WriteWorkspace, path: str, text: str, says: str
) -> None:
    """Whatever file is broken, the error names it and the line."""
    with pytest.raises(HeadraceError, match=says):
        load(write_workspace(**{path: text}))


def test_every_broken_contract_is_told_at_once(write_workspace: WriteWorkspace) -> None:
    """Two broken contract files give one error with both."""
    root = write_workspace(**{"contracts/a.yaml": "topic: a\n", "contracts/b.yaml": "topic: b\n"})
    with pytest.raises(ContractsInvalid, match=r"(?s)a\.yaml.*b\.yaml"):
        load(root)
