"""Failing conformance tests show what they compared, as tests in this directory do."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("headrace.testing.log_conformance")
