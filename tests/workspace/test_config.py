"""`headrace.toml`: what is read, what is refused, and with which place and cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.contracts.duration import DurationInvalid
from headrace.engine.settings import BATCH_RECORDS_MAX
from headrace.workspace.config import WorkspaceFile, read_config
from headrace.workspace.errors import ConfigInvalid, UnknownEnvironment, VariableUnset, WorkspaceNotFound

GOOD = """\
name = "flights"
environment = "dev"

[environments.dev]
log = "embedded"

[environments.prod]
log = "kafka"
bootstrap_servers = "${KAFKA_BOOTSTRAP}"
replication_factor = 3

[environments.prod.client]
"sasl.password" = "${KAFKA_PASSWORD}"

[environments.prod.topic]
"min.insync.replicas" = "2"
"""
KAFKA = 'name = "a"\nenvironment = "dev"\n[environments.dev]\nlog = "kafka"\nbootstrap_servers = "b:1"\n'


def read(tmp_path: Path, text: str) -> WorkspaceFile:
    file = tmp_path / "headrace.toml"
    file.write_text(text)
    return read_config(file)


def test_environments_and_defaults(tmp_path: Path) -> None:
    """What the file says is what the model holds; what it leaves out has its default."""
    file = read(tmp_path, GOOD)
    assert file.config.name == "flights"
    assert file.root == tmp_path
    dev = file.environment("dev")
    assert (dev.log, dev.registry, dev.partitions, dev.replication_factor) == ("embedded", "builtin", 4, -1)


def test_variables_are_replaced_only_where_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing production variable stops production only, and the error names key, variable and line."""
    monkeypatch.delenv("KAFKA_BOOTSTRAP", raising=False)
    monkeypatch.setenv("KAFKA_PASSWORD", "p")
    file = read(tmp_path, GOOD)
    file.environment("dev")
    with pytest.raises(VariableUnset, match=r"headrace\.toml:9: .*bootstrap_servers.* KAFKA_BOOTSTRAP"):
        file.environment("prod")
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "")
    with pytest.raises(VariableUnset, match=r"headrace\.toml:9: .*KAFKA_BOOTSTRAP, which is empty"):
        file.environment("prod")
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "broker:9092")
    prod = file.environment("prod")
    assert prod.bootstrap_servers == "broker:9092"
    assert prod.client == {"sasl.password": "p"}
    assert prod.topic == {"min.insync.replicas": "2"}


def test_choice_of_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option wins over HEADRACE_ENV, which wins over the file; an unknown name is told with the nearest."""
    file = read(tmp_path, GOOD)
    monkeypatch.delenv("HEADRACE_ENV", raising=False)
    assert file.environment_name() == "dev"
    monkeypatch.setenv("HEADRACE_ENV", "prod")
    assert file.environment_name() == "prod"
    assert file.environment_name("dev") == "dev"
    with pytest.raises(UnknownEnvironment, match=r"no environment 'prd'; did you mean 'prod'\?"):
        file.environment_name("prd")


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('name = "a"\nenviroment = "dev"\n', 2, r"unknown key 'enviroment'; did you mean 'environment'\?"),
        ('name = "a"\n\n[environments.dev]\nlog = "embedded"\npartition = 3\n', 5, r"did you mean 'partitions'\?"),
        ('environment = "dev"\n', 0, r"'name' is missing; add `name = \.\.\.`"),
        ('name = "A b"\n', 1, r"'name' is not a name: 'A b'"),
        ('name = "a"\nenvironment = "prod"\n', 2, r"default environment 'prod' has no section"),
        ('name = "a"\n[environments.dev]\nlog = "kafka"\n', 2, r"uses Kafka but has no bootstrap_servers"),
        ('name = "a"\n[environments.dev]\nlog = "kfka"\n', 3, r"'environments\.dev\.log'"),
        ('name = "a"\n[environments.dev]\nlog = "embedded"\nbootstrap_servers = "x:1"\n', 4, r"embedded log"),
        ('name = "a"\n[environments.dev]\nlog = "embedded"\nregistry = "ftp"\n', 4, r"neither 'builtin' nor a URL"),
        ('name = "a"\n[environments.dev]\nlog = "embedded"\npartitions = 0\n', 4, r"greater than or equal to 1"),
        ('name = "a"\n[environments.dev]\nlog = "embedded"\nreplication_factor = 0\n', 4, r"at least one replica"),
        ('name = "a"\n[engine]\nbatch_records_max = 0\n', 3, r"'engine\.batch_records_max'"),
        ('name = "a"\n[http]\nport = 70000\n', 3, r"'http\.port'"),
        ('name = "a"\n[http]\nprot = 1\n', 3, r"did you mean 'port'\?"),
        ('name = "a"\nenvironment = dev\n', 2, r"not valid TOML"),
        ('name = "a"\n[environments.dev]\nlog = "embedded"\nregistry_password = "hunter2"\n', 4, r"is a secret"),
        (
            'name = "a"\n[environments.dev]\nlog = "kafka"\nbootstrap_servers = "b:1"\n'
            '[environments.dev.client]\n"sasl.password" = "hunter2"\n',
            6,
            r"is a secret",
        ),
        (KAFKA + 'snapshots = {url = "s3://b", client = {secret_access_key = "hunter2"}}\n', 6, r"is a secret"),
        (KAFKA + '[environments.dev.snapshots]\nurl = "s"\nintervall = "5m"\n', 8, r"did you mean 'interval'\?"),
        (KAFKA + '[environments.dev.snapshots]\nurl = "s"\ninterval = "10ms"\n', 8, r"would never end; write 1s"),
        ('name = "a"\n[environments.dev]\nlog = "embedded"\nsnapshots = {url = "s"}\n', 4, r"embedded log"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, line: int, says: str) -> None:
    """Each mistake is refused with its line and cure, and a secret is never repeated."""
    with pytest.raises(ConfigInvalid, match=says) as caught:
        read(tmp_path, text)
    assert caught.value.where is not None
    assert (caught.value.where.file, caught.value.where.line) == (str(tmp_path / "headrace.toml"), line)
    assert caught.value.cure
    assert "hunter2" not in str(caught.value)


def test_snapshots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where copies of state are kept, how often, and a secret of the store from a variable; none by default."""
    monkeypatch.setenv("STORE_SECRET", "xyz")
    text = KAFKA + '[environments.dev.snapshots]\nurl = "s3://state/prod"\ninterval = "90s"\n'
    text += '[environments.dev.snapshots.client]\nregion = "eu-west-1"\nsecret_access_key = "${STORE_SECRET}"\n'
    snapshots = read(tmp_path, text).environment("dev").snapshots
    assert snapshots is not None
    assert (snapshots.url, snapshots.interval_s) == ("s3://state/prod", 90.0)
    assert snapshots.client == {"region": "eu-west-1", "secret_access_key": "xyz"}
    assert read(tmp_path, KAFKA).environment("dev").snapshots is None


def test_interval_of_snapshots(tmp_path: Path) -> None:
    """An interval that is no span of time is refused with its line."""
    with pytest.raises(DurationInvalid) as caught:
        read(tmp_path, KAFKA + '[environments.dev.snapshots]\nurl = "s"\ninterval = "5"\n')
    assert caught.value.where is not None
    assert caught.value.where.line == 8


def test_batch_size(tmp_path: Path) -> None:
    """`[engine]` sets how many records a worker asks of one poll."""
    assert read(tmp_path, 'name = "a"\n').config.engine.batch_records_max == BATCH_RECORDS_MAX
    assert read(tmp_path, 'name = "a"\n[engine]\nbatch_records_max = 7\n').config.engine.batch_records_max == 7


def test_found_from_a_folder_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a path the file is looked for here and above; none there is an error that tells what to do."""
    (tmp_path / "w" / "pipelines").mkdir(parents=True)
    (tmp_path / "w" / "headrace.toml").write_text('name = "w"\n')
    monkeypatch.chdir(tmp_path / "w" / "pipelines")
    assert read_config().config.name == "w"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorkspaceNotFound, match="headrace init"):
        read_config()
    with pytest.raises(WorkspaceNotFound):
        read_config(tmp_path)


def test_not_utf8(tmp_path: Path) -> None:
    """Bytes that are no text are an error of the file, not a traceback."""
    (tmp_path / "headrace.toml").write_bytes(b'name = "\xff"\n')
    with pytest.raises(ConfigInvalid, match="UTF-8"):
        read_config(tmp_path)
