"""The README names every asset and every command, and every file that it points to is there."""

from __future__ import annotations

import re

from cv_platform_tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()


def test_every_asset_is_in_the_table() -> None:
    from cv_platform.definitions import defs

    keys = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    named = set(re.findall(r"`([a-z_/]+)`", README.partition("## Assets")[2].partition("\n## ")[0]))
    assert keys - named == set()
    assert {name for name in named if "/" in name} - keys == set(), "the table names assets that are not there"


def test_every_command_is_in_the_table() -> None:
    import typer.main

    from cv_platform.cli import app

    names = set(typer.main.get_group(app).commands)
    section = README.partition("## The command line")[2].partition("\n## ")[0]
    assert {name for name in names if not re.search(rf"`(cv-platform )?{name}\b", section)} == set()


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (REPOSITORY / target).exists(), target
