"""The topic stage: what is created, altered, refused and left alone."""

from __future__ import annotations

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, TopicKind
from headrace.log.port import TopicDescription, TopicSpec
from headrace.workspace.changes import AddPartitions, AlterTopic, CreateTopic, change_json
from headrace.workspace.config import EnvironmentConfig
from headrace.workspace.plan_topics import WantedTopic, plan_topics
from headrace.workspace.topics import contract_config, contract_topic

SCHEMA = AvroSchema.parse({"type": "record", "name": "R", "fields": [{"name": "id", "type": "string"}]})


def wanted(partitions: int = 4, *, keyed: bool = True, fixed: bool = True, **config: str) -> WantedTopic:
    settings = {name.replace("_", "."): value for name, value in config.items()}
    return WantedTopic(TopicSpec("t", partitions, config=settings), "published", keyed=keyed, fixed_partitions=fixed)


def there(partitions: int = 4, **config: str) -> dict[str, TopicDescription]:
    settings = {name.replace("_", "."): value for name, value in config.items()}
    return {"t": TopicDescription("t", partitions, settings, "id"), "other": TopicDescription("other", 1, {}, "id2")}


def test_missing_topic_is_created() -> None:
    """A topic that is not there becomes one change that says all about it; others are never touched."""
    stage = plan_topics([wanted(retention_ms="5")], {})
    assert stage.problems == []
    (change,) = stage.changes
    assert isinstance(change, CreateTopic)
    assert change_json(change) == {
        "action": "create_topic",
        "target": "t",
        "summary": "published: 4 partitions, retention.ms=5",
        "purpose": "published",
        "partitions": 4,
        "replication_factor": -1,
        "config": {"retention.ms": "5"},
    }


def test_equal_topic_is_left_alone() -> None:
    """Equal settings and partitions give no change, nor do settings that nobody asked for."""
    stage = plan_topics([wanted(retention_ms="5")], there(retention_ms="5", segment_bytes="1"))
    assert (stage.changes, stage.problems) == ([], [])


def test_other_settings_are_altered() -> None:
    """Only the settings that differ are set; a setting that is not there reads as the log's default."""
    stage = plan_topics([wanted(retention_ms="5", cleanup_policy="compact")], there(cleanup_policy="delete"))
    (change,) = stage.changes
    assert change == AlterTopic(
        "t",
        {"retention.ms": None, "cleanup.policy": "delete"},
        {"retention.ms": "5", "cleanup.policy": "compact"},
    )
    assert change.summary == "cleanup.policy from delete to compact, retention.ms from the default to 5"


def test_keyless_topic_grows() -> None:
    """More partitions are added where no key would move."""
    assert plan_topics([wanted(6, keyed=False)], there(4)).changes == [AddPartitions("t", 4, 6)]


def test_partitions_that_cannot_change_are_problems() -> None:
    """Growing a keyed topic and shrinking any topic are refused, with the reason and a cure."""
    grow, shrink = plan_topics([wanted(6)], there(4)), plan_topics([wanted(2, keyed=False)], there(4))
    assert (grow.changes, shrink.changes) == ([], [])
    assert "keys would move" in grow.problems[0].message
    assert "cannot be taken away" in shrink.problems[0].message
    assert "ask for 4" in grow.problems[0].cure


def test_unasked_partitions_take_what_is_there() -> None:
    """A contract that says nothing about partitions fits any number."""
    assert plan_topics([wanted(6, fixed=False)], there(4)).changes == []


def contract(kind: TopicKind, retention_ms: int | None) -> Contract:
    return Contract("t", SCHEMA, kind=kind, key=("id",), retention_ms=retention_ms)


def test_settings_by_kind() -> None:
    """Events go after their retention, tables are compacted, changes keep history and are then compacted."""
    assert contract_config(contract(TopicKind.EVENT, 5)) == {"cleanup.policy": "delete", "retention.ms": "5"}
    assert contract_config(contract(TopicKind.EVENT, None)) == {"cleanup.policy": "delete", "retention.ms": "-1"}
    assert contract_config(contract(TopicKind.TABLE, 5)) == {"cleanup.policy": "compact"}
    assert contract_config(contract(TopicKind.CHANGE, None)) == {"cleanup.policy": "delete", "retention.ms": "-1"}
    assert contract_config(contract(TopicKind.CHANGE, 5)) == {
        "cleanup.policy": "compact",
        "min.compaction.lag.ms": "5",
    }


def test_environment_settings_lose_against_the_contract() -> None:
    """Settings of the environment are there unless the contract means otherwise; so are its partitions."""
    environment = EnvironmentConfig(
        log="embedded", partitions=7, topic={"retention.ms": "1", "min.insync.replicas": "2"}
    )
    spec = contract_topic(contract(TopicKind.EVENT, 5), environment)
    assert spec.partitions == 7
    assert spec.config == {"cleanup.policy": "delete", "retention.ms": "5", "min.insync.replicas": "2"}
