"""The documentation as a site: it is built without a warning, loads nothing from outside, and its reference leaves nothing out."""

import logging
import re
from pathlib import Path
from typing import get_args

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from small_runs import ROOT

from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.jobs.spec.read import recipe_paths
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tasks.registry import AnyTask
from largebatch.service.cli.main import COMMANDS


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make docs` builds; a link that leads nowhere is a warning, and so is an anchor."""
    folder = tmp_path_factory.mktemp("site")
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("mkdocs").addHandler(handler)
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder)))
    logging.getLogger("mkdocs").removeHandler(handler)
    assert not warnings, "\n".join(warnings)
    return folder


def test_it_loads_nothing_from_outside(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 100
    for page in pages:
        loaded = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"?(https?:|//)[^>]*>", page.read_text())
        assert not loaded, page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:|//)", sheet.read_text()), sheet.name


def test_the_reference_leaves_nothing_out(site: Path) -> None:
    recipe, commands, recipes = ((site / "reference" / f"{name}.html").read_text() for name in ("recipe", "commands", "recipes"))
    for name in TrainSpec.model_fields:
        assert f"<code>{name}</code>" in recipe
    assert "Draws initial weights, order, augmentation and dropout." in recipe, "what a key's docstring says"
    for name in OPTIMIZERS:
        assert f"optimizer: {name}" in recipe
    for task in get_args(get_args(AnyTask)[0]):
        assert f"task: {get_args(task)[1].tag}" in recipe
    assert "whole number above 0 or <code>full</code>" in recipe, "of batch.global_batch_size"
    assert all(f"largebatch {name}" in commands for name in COMMANDS)
    assert all(f'id="{name}"' in recipes for name in recipe_paths())


def test_the_first_page_is_readme(site: Path) -> None:
    page = (site / "index.html").read_text()
    assert 'href="quickstart.html"' in page
    assert 'href="decisions/index.html"' in page
    assert 'href="docs/' not in page
