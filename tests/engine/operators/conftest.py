"""Tests of operators that rest heavily on state run on both ways."""

from __future__ import annotations

from tests.engine.ways import each_way

__all__ = ["each_way"]
