"""Governance meets the pipeline's worlds."""

from __future__ import annotations

from cv_platform_tests.pipeline.conftest import make_world, world

__all__ = ["make_world", "world"]
