"""PostgreSQL: refused rows, tables that others make and change, and servers that are away."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from headrace.egress.sdk import Checks, Explains, Mode
from headrace.testing.postgres import POSTGRES
from headrace.testing.sink_database_troubles import DatabaseTroubles
from headrace.testing.sink_databases import PASSWORD, batch_of, expected
from headrace.testing.sink_harness import Stage, order, wait_until
from headrace.testing.sink_postgres import read_table, schema_of
from headrace.testing.sink_types import comparable
from headrace_postgres import PostgresConnector

HBA = "host all limited 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"


@pytest.fixture(scope="module")
def own_server() -> Iterator[Path]:
    """A server of this module alone, which asks one of its users for a password."""
    home = Path(tempfile.mkdtemp(prefix="headrace-postgres-"))
    home.chmod(0o755)  # The server runs as another user where the tests run as root.
    rules = home / "hba.conf"
    rules.write_text(HBA)
    rules.chmod(0o644)
    try:
        POSTGRES.start(home, owner_pid=os.getpid(), settings={"hba_file": str(rules)})
        yield home
        POSTGRES.stop(home)
    finally:
        shutil.rmtree(home)


class TestPostgresFailures(DatabaseTroubles):
    connector = PostgresConnector
    code = "postgres"
    # Disk full, no memory, input or output failed, lock timed out, deadlock, not serializable, read-only, statement
    # timed out, ended by an administrator.
    errors_of_the_server = ("53100", "53200", "58030", "55P03", "40P01", "40001", "25006", "57014", "57P01")
    table_lock = "LOCK TABLE target IN ACCESS EXCLUSIVE MODE"

    @pytest.fixture(autouse=True)
    def _server(self, postgres_url: str, own_server: Path) -> None:
        self.url, self.own = postgres_url, own_server

    def options(self, folder: Path) -> dict[str, Any]:
        return {"database": self.url, "schema": schema_of(folder), "table": "target"}

    def read(self, folder: Path) -> pa.Table:
        return read_table(self.url, schema_of(folder))

    def execute(self, folder: Path, statement: str) -> None:
        with self.session(folder) as connection:
            connection.execute(statement)

    def session(self, folder: Path) -> AbstractContextManager[Any]:
        schema = schema_of(folder)
        with psycopg.connect(self.url) as connection:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        return psycopg.connect(self.url, options=f"-c search_path={schema} -c deadlock_timeout=60s")

    def end_sessions(self, folder: Path) -> None:
        with psycopg.connect(self.url) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a JOIN pg_locks l USING (pid)"
                " WHERE application_name = 'headrace' AND l.relation = to_regclass(%s)",
                [f"{schema_of(folder)}.target"],
            )

    def raise_on_insert(self, folder: Path, error: str) -> None:
        schema = schema_of(folder)
        self.execute(
            folder,
            f"CREATE OR REPLACE FUNCTION {schema}.raising() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" IF EXISTS (SELECT 1 FROM {schema}.trouble) THEN RAISE EXCEPTION 'trouble' USING ERRCODE = '{error}';"
            f" END IF; RETURN NEW; END $$; DROP TRIGGER IF EXISTS raising ON target;"
            f" CREATE TRIGGER raising BEFORE INSERT ON target FOR EACH ROW EXECUTE FUNCTION {schema}.raising()",
        )

    def few_sessions(self, folder: Path) -> dict[str, Any]:
        schema = schema_of(folder)
        self.execute(folder, f"CREATE USER few_{schema} CONNECTION LIMIT 1")
        self.execute(folder, f"GRANT ALL ON SCHEMA {schema} TO few_{schema}")
        return {"database": self.url.replace("postgres@", f"few_{schema}@")}

    def one_session(self, folder: Path) -> Any:
        return psycopg.connect(self.url.replace("postgres@", f"few_{schema_of(folder)}@"))

    def wrong_password(self) -> dict[str, Any]:
        server = POSTGRES.find(self.own)
        assert server is not None
        with psycopg.connect(server.url, autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = 'limited'").fetchone():
                connection.execute("CREATE USER limited PASSWORD 'another'")
        os.environ["TEST_WRONG_PASSWORD"] = PASSWORD
        return {"database": server.url.replace("postgres@", "limited:${TEST_WRONG_PASSWORD}@")}

    def test_text_with_a_nul_is_refused_alone(self, stage: Stage, tmp_path: Path) -> None:
        """PostgreSQL's text has no NUL; nor a date a year of five digits."""
        connector = self.opened(stage, self.config(tmp_path, Mode.APPEND))
        (refused,) = connector.write(batch_of([order(1), {**order(2), "customer": "a\0b"}, order(3)]), {0: 3})
        connector.flush()
        connector.close()
        assert (refused.row, refused.code) == (1, "postgres.value")
        assert set(self.amounts(tmp_path)) == {1, 3}

    def test_what_looks_like_the_end_of_the_data_is_text(self, stage: Stage, tmp_path: Path) -> None:
        """COPY has a mark for its end, quotes and line ends: none of them breaks a text, alone in its line."""
        texts = ["\\.", "", "a\r\nb", '"', "\\N", ",", "NULL"]
        stage.publish([{**order(number), "customer": text} for number, text in enumerate(texts)])
        stage.deliver(self.connector(), self.config(tmp_path, Mode.APPEND, columns=["customer"]))
        assert sorted(self.read(tmp_path).column("customer").to_pylist()) == sorted(texts)

    def test_a_dry_run_shows_the_statements(self, stage: Stage, tmp_path: Path) -> None:
        """Without a server; those of a flush of these rows, no row and no password in them."""
        options = {"database": "postgresql://nobody:${NO_SUCH_PASSWORD}@nowhere/none"}
        connector, config, contract = self.parts(stage, self.config(tmp_path, Mode.REPLICATE, options=options))
        assert isinstance(connector, Explains)
        copied, deleted, upserted = connector.explain(config, contract, batch_of([order(1), order(2)], deletes=[1]))
        assert copied.startswith("COPY ")
        assert copied.endswith("2 rows")
        assert deleted.startswith("DELETE FROM")
        assert "ON CONFLICT" in upserted
        assert "customer 1" not in copied + deleted + upserted

    def test_rights_to_write_are_enough_once_the_tables_are_there(self, stage: Stage, tmp_path: Path) -> None:
        """A user that may make nothing delivers into what another made."""
        stage.publish([order(1)])
        stage.deliver(self.connector(), self.config(tmp_path))
        schema = schema_of(tmp_path)
        user = f"writer_{schema}"
        self.execute(tmp_path, f"CREATE USER {user}")
        self.execute(tmp_path, f"GRANT USAGE ON SCHEMA {schema} TO {user}")
        self.execute(tmp_path, f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {user}")
        stage.publish([order(2)])
        url = self.url.replace("postgres@", f"{user}@")
        stage.deliver(self.connector(), self.config(tmp_path, options={"database": url}))
        assert set(self.amounts(tmp_path)) == {1, 2}

    @pytest.mark.parametrize("mode", [Mode.APPEND, Mode.UPSERT])
    def test_a_check_tells_which_rights_are_missing(self, stage: Stage, tmp_path: Path, mode: Mode) -> None:
        """Of table, positions and database; a user with all of them hears of none."""
        stage.publish([order(1)])
        stage.deliver(self.connector(), self.config(tmp_path, mode))
        schema = schema_of(tmp_path)
        user = f"checked_{schema}"
        self.execute(tmp_path, f"CREATE USER {user}")
        self.execute(tmp_path, f"GRANT USAGE ON SCHEMA {schema} TO {user}")
        self.execute(tmp_path, f"GRANT SELECT ON target TO {user}")
        self.execute(tmp_path, f"GRANT SELECT, UPDATE ON _headrace_positions TO {user}")
        options = {"database": self.url.replace("postgres@", f"{user}@")}
        connector, told, contract = self.parts(stage, self.config(tmp_path, mode, options=options))
        assert isinstance(connector, Checks)
        found = [each.partition(" right to ")[2].partition(";")[0] for each in connector.check(told, contract)]
        written = "INSERT, UPDATE" if mode is Mode.APPEND else "INSERT, UPDATE, DELETE"
        assert found == [f'{written} on "{schema}"."target"', f'INSERT on "{schema}"."_headrace_positions"']
        self.execute(tmp_path, f"GRANT {written} ON ALL TABLES IN SCHEMA {schema} TO {user}")
        assert not connector.check(told, contract)
        stage.publish([order(2)])
        stage.deliver(self.connector(), self.config(tmp_path, mode, options=options))
        assert set(self.amounts(tmp_path)) == {1, 2}

    def test_a_deferred_constraint_refuses_its_row_at_once(self, stage: Stage, tmp_path: Path) -> None:
        """One that waits for the commit would fail everything and name no row."""
        self.make_table(tmp_path, "UNIQUE (customer) DEFERRABLE INITIALLY DEFERRED")
        connector = self.opened(stage, self.config(tmp_path))
        rows = [{**order(number), "customer": "one" if number < 2 else "two"} for number in range(3)]
        (refused,) = connector.write(batch_of(rows), {0: 3})
        connector.flush()
        connector.close()
        assert (refused.row, refused.code) == (1, "postgres.constraint")

    def test_a_server_that_is_away_is_waited_for(self, stage: Stage, tmp_path: Path) -> None:
        """Killed while the egress runs and started again later: it says that it waits, then delivers everything."""
        server = POSTGRES.find(self.own)
        assert server is not None
        port = server.url.rpartition(":")[2].partition("/")[0]
        config = self.config(tmp_path, options={"database": server.url})
        stage.publish([order(number) for number in range(30)])
        runner = stage.runner(self.connector(), config)
        with stage.running(runner):
            wait_until(lambda: stage.is_delivered(runner), "the first rows")
            POSTGRES.stop(self.own)
            stage.publish([order(number) for number in range(30, 60)])
            wait_until(lambda: runner.status().state == "retrying", "waiting")
            settings = {"port": port, "hba_file": str(self.own / "hba.conf")}
            started = POSTGRES.start(self.own, owner_pid=os.getpid(), settings=settings)
            wait_until(lambda: stage.is_delivered(runner), "the others")
        found = read_table(started.url, schema_of(tmp_path))
        assert comparable(found) == expected([order(number) for number in range(60)])
