"""What the documents say is still there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from edge_agent import config, sensors, status
from models.contract.features import as_table

ROOT = Path(__file__).parents[2]
NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)(?:::(\w+))?`")


@pytest.mark.parametrize("name", ["capabilities", "faults"])
def test_every_row_names_a_test_that_exists(name: str) -> None:
    lines = (ROOT / f"docs/{name}.md").read_text().splitlines()
    rows = [line for line in lines if re.match(r"\| [A-Z]+\d+", line)]
    assert rows
    for row in rows:
        named = NAMED_TEST.findall(row)
        assert named, f"no test is named in: {row}"
        for path, first, second in named:
            source = (ROOT / path).read_text()
            for name in filter(None, (first, second)):
                assert re.search(rf"\b(def|class) {name}\b|^{name} = ", source, re.MULTILINE), f"{path} has no {name}"


def test_the_table_of_features_is_the_catalogue() -> None:
    assert (ROOT / "docs/features.md").read_text() == as_table()


def test_the_table_of_the_status_is_what_it_says() -> None:
    assert (ROOT / "docs/status.md").read_text() == status.as_table()


def test_every_link_between_documents_leads_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize("path", sorted((ROOT / "docs/examples").glob("*.toml")), ids=lambda p: p.name)
def test_every_example_is_toml(path: Path) -> None:
    assert tomllib.loads(path.read_text())


@pytest.mark.parametrize("source", sensors.Tables.model_fields)
def test_every_source_has_a_page_and_an_example_that_is_accepted(source: str) -> None:
    assert (ROOT / "docs/sources" / f"{source}.md").exists()
    assert f"[{source}]({source}.md)" in (ROOT / "docs/sources/README.md").read_text()
    assert config.load(ROOT / "docs/examples" / f"{source}.toml").asset[0].source == source
