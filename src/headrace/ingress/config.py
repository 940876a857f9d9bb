"""What `ingress/*.yaml` says.

Owns the choice of a model by `kind` and the reading of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from headrace.contracts.yaml_model import checked_model
from headrace.contracts.yaml_source import closest, read_yaml
from headrace.errors import Where
from headrace.ingress.cdc.config import CdcConfig, MysqlCdcConfig, PostgresCdcConfig, SqliteCdcConfig
from headrace.ingress.gateway.config import GatewayConfig
from headrace.ingress.violations import IngressInvalid

HELP_PAGE = "docs/ingress.md"
KINDS: Mapping[str, type[CdcConfig] | type[GatewayConfig]] = {
    "sqlite-cdc": SqliteCdcConfig,
    "postgres-cdc": PostgresCdcConfig,
    "mysql-cdc": MysqlCdcConfig,
    "gateway": GatewayConfig,
}


def load_ingress(path: Path) -> CdcConfig | GatewayConfig:
    """Read one file of `ingress/`; a file of a database is taken relative to the folder above it, the workspace.

    Raises `YamlInvalid`, `IngressInvalid`.
    """
    source = read_yaml(path)
    kind = source.get("kind")
    if kind not in KINDS:
        near = closest(str(kind), KINDS)
        cure = f"did you mean {near!r}?" if near else f"write `kind: {' | '.join(KINDS)}`"
        problem = "'kind' is missing" if kind is None else f"unknown kind {kind!r}"
        raise IngressInvalid(problem, where=source.where("kind"), cure=cure)
    values = {"name": path.stem, **source.plain(), "where": Where(str(path))}
    config = checked_model(values, KINDS[kind], source=source, error=IngressInvalid, help_page=HELP_PAGE)
    if not isinstance(config, SqliteCdcConfig):
        return config
    return config.model_copy(update={"database": path.absolute().parent.parent / config.database})
