"""Tests of state run on both ways, unless they compare them themselves."""

from __future__ import annotations

from tests.engine.ways import each_way

__all__ = ["each_way"]
