"""The project's own OpenSearch: found where it is named, started from its jars, and what is missing is told."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.testing.kafka_service import is_required
from headrace.testing.opensearch import (
    OPENSEARCH,
    OPENSEARCH_JARS,
    OpenSearchError,
    main,
    missing_programs,
    start_opensearch,
)
from headrace.testing.opensearch_service import OpenSearchMissing, opensearch_service

pytestmark = pytest.mark.xdist_group("opensearch")


def test_a_node_keeps_its_data_in_its_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command starts and stops it; it is OpenSearch of the version that the pom names, alone and ready."""
    if (reason := missing_programs()) and not is_required():
        pytest.skip(reason)
    home = ["--directory", str(tmp_path / "node")]
    assert main(["start", *home]) == 0
    url = capsys.readouterr().out.strip()
    told = _asked(url)["version"]
    assert (told["distribution"], told["number"]) == ("opensearch", OPENSEARCH_JARS.version())
    assert _asked(f"{url}/_cluster/health")["number_of_nodes"] == 1
    assert main(["start", *home]) == 0
    assert capsys.readouterr().out.strip() == url
    assert main(["stop", *home]) == 0
    assert OPENSEARCH.find(tmp_path / "node") is None
    assert (tmp_path / "node" / "data" / "nodes").is_dir()


def test_a_given_address_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is used as it is; nothing is started."""
    monkeypatch.setenv("HEADRACE_TEST_OPENSEARCH", "http://somewhere:9200")
    with opensearch_service(tmp_path / "node", owner_pid=os.getpid()) as url:
        assert url == "http://somewhere:9200"
    assert not (tmp_path / "node").exists()


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine with these programs alone: no jars, no Docker, no address."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("JAVA_HOME", "HEADRACE_TEST_OPENSEARCH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("headrace.testing.database_service.docker_answers", lambda: False)
    (tmp_path / "sh").symlink_to("/bin/sh")

    def make(*names: str) -> None:
        for name in names:
            (tmp_path / name).write_text("#!/bin/sh\necho 'openjdk version \"17.0.1\"' >&2\n")
            (tmp_path / name).chmod(0o755)

    return make


@pytest.mark.parametrize(
    ("present", "told"), [([], "no java"), (["java"], "no compiler"), (["java", "javac"], "no mvn")]
)
def test_what_is_missing_is_named(tmp_path: Path, programs: Callable[..., None], present: list[str], told: str) -> None:
    """Java, its compiler or Maven, and how to do without; nothing is started."""
    programs(*present)
    with pytest.raises(OpenSearchMissing, match=rf"HEADRACE_TEST_OPENSEARCH is not set.*{told}"):
        opensearch_service(tmp_path / "node", owner_pid=os.getpid())
    with pytest.raises(OpenSearchError, match=told):
        start_opensearch(tmp_path / "node")


def _asked(url: str) -> dict[str, dict[str, str]]:
    with urllib.request.urlopen(url) as reply:
        answer: dict[str, dict[str, str]] = json.loads(reply.read())
    return answer
