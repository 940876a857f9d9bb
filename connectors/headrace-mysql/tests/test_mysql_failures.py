"""MySQL and MariaDB: refused rows, tables that others make and change, and servers that are away.

Run on MariaDB, or the MySQL that is named.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pymysql
import pytest

from headrace.egress.sdk import Checks, Explains, Mode, PositionMoved, TargetInvalid
from headrace.ingress.cdc.mysql.connection import settings_of
from headrace.testing.mariadb_service import SERVER
from headrace.testing.sink_database_troubles import DatabaseTroubles
from headrace.testing.sink_databases import PASSWORD, batch_of, expected
from headrace.testing.sink_harness import Stage, order, wait_until
from headrace.testing.sink_mysql import execute, make_database, read_table
from headrace.testing.sink_types import comparable
from headrace_mysql import MysqlConnector
from headrace_mysql.positions import Positions


@pytest.fixture(scope="module")
def own_server() -> Iterator[Path]:
    """A server of this module alone, to be stopped."""
    home = Path(tempfile.mkdtemp(prefix="headrace-mariadb-"))
    home.chmod(0o755)  # The server runs as another user where the tests run as root.
    try:
        SERVER.start(home, owner_pid=os.getpid())
        yield home
        SERVER.stop(home)
    finally:
        shutil.rmtree(home)


class TestMysqlFailures(DatabaseTroubles):
    connector = MysqlConnector
    code = "mysql"
    # Disk full, too many locks, lock timed out, deadlock, read-only in two ways, statement timed out, no memory.
    errors_of_the_server = ("1021", "1114", "1206", "1205", "1213", "1290", "1836", "3024", "1038")
    table_lock, unlock = "LOCK TABLES target WRITE", "UNLOCK TABLES"

    @pytest.fixture(autouse=True)
    def _server(self, mariadb_url: str) -> None:
        self.url = mariadb_url

    def options(self, folder: Path) -> dict[str, Any]:
        return {"database": make_database(self.url, folder), "table": "target"}

    def read(self, folder: Path) -> pa.Table:
        return read_table(make_database(self.url, folder))

    def execute(self, folder: Path, statement: str) -> None:
        execute(make_database(self.url, folder), statement)

    def session(self, folder: Path) -> AbstractContextManager[Any]:
        url = make_database(self.url, folder)
        connection: AbstractContextManager[Any] = pymysql.connect(**settings_of(url), database=url.rpartition("/")[2])
        return connection

    def end_sessions(self, folder: Path) -> None:
        url = make_database(self.url, folder)
        name = url.rpartition("/")[2]
        own = "connection_id()"
        listed = f"SELECT id FROM information_schema.processlist WHERE db = '{name}' AND id <> {own}"
        for (number,) in execute(url, listed):
            execute(url, f"KILL {number}")

    def raise_on_insert(self, folder: Path, error: str) -> None:
        self.execute(folder, "DROP TRIGGER IF EXISTS raising")
        self.execute(
            folder,
            "CREATE TRIGGER raising BEFORE INSERT ON target FOR EACH ROW BEGIN IF EXISTS (SELECT 1 FROM trouble) THEN"
            f" SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {error}, MESSAGE_TEXT = 'trouble'; END IF; END",
        )

    def few_sessions(self, folder: Path) -> dict[str, Any]:
        options = self.user(folder, "ALL ON `{name}`.*")
        url = make_database(self.url, folder)
        name = f"u{url.rpartition('/')[2][:12]}"
        execute(url, f"ALTER USER {name} WITH MAX_USER_CONNECTIONS 1")
        return options

    def one_session(self, folder: Path) -> Any:
        url = make_database(self.url, folder)
        settings = {**settings_of(url), "user": f"u{url.rpartition('/')[2][:12]}", "password": PASSWORD}
        return pymysql.connect(**settings)

    def wrong_password(self) -> dict[str, Any]:
        execute(f"{self.url}/mysql", "CREATE USER IF NOT EXISTS limited IDENTIFIED BY 'another'")
        os.environ["TEST_WRONG_PASSWORD"] = PASSWORD
        return {"database": self.url.replace("root@", "limited:${TEST_WRONG_PASSWORD}@") + "/mysql"}

    @pytest.mark.parametrize("amount", [math.nan, math.inf, -math.inf])
    def test_what_is_not_a_number_is_refused_alone(self, stage: Stage, tmp_path: Path, amount: float) -> None:
        """MySQL's double has no such value."""
        connector = self.opened(stage, self.config(tmp_path))
        (refused,) = connector.write(batch_of([order(1), order(2, amount), order(3)]), {0: 3})
        connector.flush()
        connector.close()
        assert (refused.row, refused.code) == (1, "mysql.value")
        assert set(self.amounts(tmp_path)) == {1, 3}

    def test_a_row_larger_than_a_packet_is_refused_alone(self, stage: Stage, tmp_path: Path) -> None:
        """The server would end the session for it; rows around it fit into several statements."""
        connector = self.opened(stage, self.config(tmp_path))
        connector._packet_bytes = 64 * 1024  # type: ignore[attr-defined]
        rows = [{**order(number), "customer": "x" * (100_000 if number == 5 else 20_000)} for number in range(10)]
        (refused,) = connector.write(batch_of(rows), {0: 10})
        connector.flush()
        connector.close()
        assert (refused.row, refused.code) == (5, "mysql.value")
        assert "max_allowed_packet" in refused.message
        assert set(self.amounts(tmp_path)) == set(range(10)) - {5}

    def test_two_first_deliveries_cannot_both_write(
        self, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Both have looked before either wrote its first position, when there is no row to lock: one of them writes."""
        config = self.config(tmp_path, Mode.APPEND)
        first, second = self.opened(stage, config), self.opened(stage, config)
        for connector in (first, second):
            connector.write(batch_of([order(1)]), {0: 1})
        first.flush()
        monkeypatch.setattr(Positions, "held", lambda *_, **__: {})
        with pytest.raises(PositionMoved):
            second.flush()
        for connector in (first, second):
            connector.close()
        assert self.amounts(tmp_path) == {1: "1.0"}
        assert self.read(tmp_path).num_rows == 1

    def test_a_dry_run_shows_the_statements(self, stage: Stage, tmp_path: Path) -> None:
        """Without a server; those of a flush of these rows, no row and no password in them."""
        options = {"database": "mysql://nobody:${NO_SUCH_PASSWORD}@nowhere/none"}
        connector, config, contract = self.parts(stage, self.config(tmp_path, Mode.REPLICATE, options=options))
        assert isinstance(connector, Explains)
        statements = connector.explain(config, contract, batch_of([order(1), order(2)], deletes=[1]))
        assert [each.split()[0] for each in statements] == ["INSERT", "DELETE", "UPDATE", "INSERT"]
        assert statements[0].endswith("2 rows")
        assert "customer 1" not in "".join(statements)

    def test_texts_of_all_characters_arrive(self, stage: Stage, tmp_path: Path) -> None:
        """Quotes, backslashes, NUL and blanks at the end are text, in keys too."""
        rows = [
            {**order(number), "customer": text}
            for number, text in enumerate(
                ["'", "\\", "a\0b", "\\'", "'; --", "é ", "E", "e", "e ", "\U0001f6e9", "NULL"]
            )
        ]
        connector = self.opened(stage, self.config(tmp_path))
        assert not connector.write(batch_of(rows), {0: len(rows)})
        connector.flush()
        connector.close()
        assert {row["id"]: row["customer"] for row in comparable(self.read(tmp_path))} == {
            row["id"]: row["customer"] for row in rows
        }

    def user(self, folder: Path, *grants: str, role: bool = False) -> dict[str, Any]:
        """Options with a user that may do just this; `{name}` is the database."""
        url = make_database(self.url, folder)
        name = url.rpartition("/")[2]
        user, holder = f"u{name[:12]}", f"r{name[:12]}" if role else f"u{name[:12]}"
        execute(url, f"DROP USER IF EXISTS {user}")
        execute(url, f"CREATE USER {user} IDENTIFIED BY '{PASSWORD}'")
        if role:
            execute(url, f"DROP ROLE IF EXISTS {holder}")
            execute(url, f"CREATE ROLE {holder}")
            execute(url, f"GRANT {holder} TO {user}")
            is_mariadb = "mariadb" in str(execute(url, "SELECT version()")).lower()
            default = f"SET DEFAULT ROLE {holder} {'FOR' if is_mariadb else 'TO'} {user}"
            execute(url, default)
        for grant in grants:
            execute(url, f"GRANT {grant.format(name=name)} TO {holder}")
        os.environ["TEST_PASSWORD"] = PASSWORD
        return {"database": url.replace("root@", f"{user}:${{TEST_PASSWORD}}@")}

    @pytest.mark.parametrize(
        ("grants", "lacking", "role"),
        [
            (["ALL ON `{name}`.*"], [], False),
            (["ALL ON `{name}`.*"], [], True),
            (["SELECT, INSERT, UPDATE, DELETE, CREATE, CREATE TEMPORARY TABLES ON *.*"], [], False),
            (["SELECT, INSERT, UPDATE, DELETE, CREATE TEMPORARY TABLES ON `t%`.*"], [], False),
            (
                ["SELECT, INSERT, UPDATE, DELETE ON `{name}`.*", "CREATE TEMPORARY TABLES ON `t%`.*"],
                ["CREATE TEMPORARY TABLES on the database"],
                False,
            ),
            (["SELECT, INSERT, UPDATE, DELETE ON `{name}`.*"], ["CREATE TEMPORARY TABLES on the database"], False),
            (
                ["SELECT, CREATE TEMPORARY TABLES ON `{name}`.*", "INSERT, UPDATE ON `{name}`._headrace_positions"],
                ["INSERT, UPDATE, DELETE on table `target`"],
                True,
            ),
            (
                ["SELECT, CREATE TEMPORARY TABLES ON `{name}`.*", "INSERT, UPDATE, DELETE ON `{name}`.target"],
                ["INSERT, UPDATE on table `_headrace_positions`"],
                False,
            ),
        ],
    )
    def test_a_check_tells_which_rights_are_missing(
        self, stage: Stage, tmp_path: Path, grants: list[str], lacking: list[str], role: bool
    ) -> None:
        """Of server, database or table, the user's own or a role's; who passes delivers."""
        stage.publish([order(1)])
        stage.deliver(self.connector(), self.config(tmp_path))
        config = self.config(tmp_path, options=self.user(tmp_path, *grants, role=role))
        connector, told, contract = self.parts(stage, config)
        assert isinstance(connector, Checks)
        found = connector.check(told, contract)
        assert [each.partition(" right to ")[2].partition(";")[0] for each in found] == lacking
        stage.publish([order(2)])
        if not lacking:
            stage.deliver(self.connector(), config)
        else:
            with pytest.raises(TargetInvalid):
                stage.deliver(self.connector(), config)
        assert set(self.amounts(tmp_path)) == ({1} if lacking else {1, 2})

    def test_a_check_asks_for_the_right_to_make_and_to_alter(self, stage: Stage, tmp_path: Path) -> None:
        """Where something is to be made or altered, and only there."""
        granted = "SELECT, INSERT, UPDATE, DELETE, CREATE TEMPORARY TABLES ON `{name}`.*"
        config = self.config(tmp_path, options=self.user(tmp_path, granted))
        connector, told, contract = self.parts(stage, config)
        assert isinstance(connector, Checks)
        assert ["CREATE on table" in each for each in connector.check(told, contract)] == [True, True]
        self.execute(tmp_path, "CREATE TABLE target (id bigint NOT NULL PRIMARY KEY)")
        altered, made = connector.check(told, contract)
        assert "ALTER on table `target`" in altered
        assert "CREATE on table `_headrace_positions`" in made

    @pytest.mark.parametrize("tls", [True, False])
    def test_a_password_is_enough(
        self, stage: Stage, tmp_path: Path, own_server: Path, monkeypatch: pytest.MonkeyPatch, tls: bool
    ) -> None:
        """MySQL asks for TLS or a key of its own of who it does not remember, as after FLUSH PRIVILEGES."""
        server = SERVER.find(own_server)
        assert server is not None
        monkeypatch.setattr(self, "url", server.url)
        options = self.user(tmp_path, "ALL ON `{name}`.*")
        execute(f"{server.url}/mysql", "FLUSH PRIVILEGES")
        if not tls:
            connect = pymysql.connect
            monkeypatch.setattr(pymysql, "connect", lambda **given: connect(**given, ssl_disabled=True))
        stage.publish([order(1)])
        stage.deliver(self.connector(), self.config(tmp_path, options=options))
        assert set(self.amounts(tmp_path)) == {1}

    def test_a_server_that_is_away_is_waited_for(self, stage: Stage, tmp_path: Path, own_server: Path) -> None:
        """Stopped while the egress runs and started again later: it says that it waits, then delivers everything."""
        server = SERVER.find(own_server)
        assert server is not None
        url = make_database(server.url, tmp_path)
        config = self.config(tmp_path, options={"database": url})
        stage.publish([order(number) for number in range(30)])
        runner = stage.runner(self.connector(), config)
        with stage.running(runner):
            wait_until(lambda: stage.is_delivered(runner), "the first rows")
            SERVER.stop(own_server)
            stage.publish([order(number) for number in range(30, 60)])
            wait_until(lambda: runner.status().state == "retrying", "waiting")
            SERVER.start(own_server, owner_pid=os.getpid(), settings={"port": server.url.rpartition(":")[2]})
            wait_until(lambda: stage.is_delivered(runner), "the others")
        assert comparable(read_table(url)) == expected([order(number) for number in range(60)])
