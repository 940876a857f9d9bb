"""The one suite that every log passes.

A log's test module subclasses `LogConformance` and gives it a `log` fixture:

    class TestMyLog(LogConformance):
        @pytest.fixture
        def log(self) -> Iterator[Log]:
            with closing(MyLog()) as log:
                yield log

- Only the log port is used; every topic, group and transactional id is unique, so one log may serve all tests.
- Conditions are polled with a deadline.
"""

from headrace.testing.log_conformance.administration import AdministrationConformance
from headrace.testing.log_conformance.groups import GroupsConformance
from headrace.testing.log_conformance.positions import PositionsConformance
from headrace.testing.log_conformance.progress import ProgressConformance
from headrace.testing.log_conformance.records import RecordsConformance
from headrace.testing.log_conformance.transactions import TransactionsConformance


class LogConformance(
    RecordsConformance,
    TransactionsConformance,
    PositionsConformance,
    ProgressConformance,
    GroupsConformance,
    AdministrationConformance,
):
    """All that is asked of a log. The subclass has a fixture `log`."""
