"""What modules of fault tests share: one scene of their own for all tests that leave it well."""

from __future__ import annotations

import pytest

from tests.faults.scene import Scene


@pytest.fixture
def scene(shared_scene: Scene) -> Scene:
    """The scene of the module, well."""
    assert shared_scene.is_well, "an earlier test left the scene unwell"
    return shared_scene
