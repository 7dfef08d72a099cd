"""QR labels to print: one a machine, a link and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_agent.cli import main
from models.form import machine_labels
from models.form.machine_labels import Machine

CONFIG = Path(__file__).parents[2] / "docs/examples/csv.toml"  # one machine, called machine


def test_a_label_has_name_code_and_link_and_what_was_written_stays_text() -> None:
    odd = Machine("pump 1/a", "<b>pump</b>", "North", "48213")
    html = machine_labels.page([odd], "https://gw7.plant.example/", "de")
    assert "https://gw7.plant.example/form/m/pump%201%2Fa" in html
    assert "48213" in html
    assert "<b>" not in html
    assert html.count("<svg") == 1
    assert "Etiketten" in html
    assert 'role="alert"' not in html


def test_codes_that_would_lead_a_phone_to_itself_are_warned_of() -> None:
    assert "this computer alone" in machine_labels.page([], "http://localhost:8077", "en")


def test_the_command_writes_a_page_that_needs_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, words = tmp_path / "labels.html", ["labels", "--config", str(CONFIG), "--url", "https://gw7.plant.example"]
    assert main([*words, "--out", str(page)]) == 0
    assert capsys.readouterr().out.startswith("1 labels in")
    html = page.read_text()
    assert "<style>" in html
    assert "/static/" not in html
    assert main([*words, "--json"]) == 0
    ((link,),) = [[row["link"]] for row in json.loads(capsys.readouterr().out)]
    assert link == "https://gw7.plant.example/form/m/machine"
    assert link in html


@pytest.mark.parametrize(
    ("more", "says"),
    [(["--asset", "pump9"], "no machine pump9"), (["--url", "gw7"], "https://"), (["--out", "/no/such"], "written")],
)
def test_what_can_not_be_labelled_is_said(more: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["labels", "--config", str(CONFIG), *more]) == 2
    assert says in capsys.readouterr().err
