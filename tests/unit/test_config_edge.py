"""Settings are read once and refused whole, with every mistake in one message."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent import config
from edge_agent.errors import BadConfig

WHOLE = """
device = "plant1.gw1"
state_dir = "state"

[broker]
host = "broker.plant1"
password_file = "secret"

[[asset]]
id = "pump1"
source = "mqtt"
[asset.mqtt]
topic = "plant/pump1/samples"
rate_hz = 1024
signals = [{ name = "vib_x", unit = "m/s2", low = -200, high = 200 }]
[asset.window]
rate_hz = 1024
n_samples = 256
hop = 256

[[asset]]
id = "tank"
source = "csv"
[asset.csv]
path = "${PDM_TEST_FOLDER}/*.csv"
normal_rows = 400
[asset.csv.recording]
label = "anomaly"
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PDM_TEST_FOLDER", "/data/tank")
    path = tmp_path / "agent.toml"
    path.write_text(WHOLE)
    return path


def test_paths_are_beside_the_file_and_variables_are_filled_in(file: Path) -> None:
    settings = config.load(file)
    assert settings.state_dir == file.parent / "state"
    assert settings.asset[1].csv is not None
    assert settings.asset[1].csv.path == Path("/data/tank/*.csv")
    assert settings.asset[0].window is not None
    assert settings.broker is not None
    assert settings.broker.tls() is None


def test_a_variable_that_is_not_set_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PDM_TEST_FOLDER")
    with pytest.raises(BadConfig, match="PDM_TEST_FOLDER"):
        config.load(file)


def test_one_message_names_every_mistake(file: Path) -> None:
    file.write_text('device = "NO"\nform.port = 70000\nhartbeat_s = 2\n[[asset]]\nid = "a/b"\nsource = "csv"\n')
    with pytest.raises(BadConfig) as caught:
        config.load(file)
    for word in ("device", "form.port", "hartbeat_s", "asset.0.id"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "asset"),
        ("not toml", "agent.toml"),
        (WHOLE.replace('"tank"', '"pump1"'), "same id"),
        (WHOLE.replace("[asset.csv]", "[asset.cvs]"), "cvs"),
        (WHOLE.replace("rate_hz = 1024\nn_", "rate_hz = inf\nn_"), "rate_hz"),
        ("\udce9", "agent.toml"),
    ],
)
def test_what_can_not_be_meant_is_refused(file: Path, text: str, word: str) -> None:
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadConfig, match=word):
        config.load(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"nowhere\.toml"):
        config.load(tmp_path / "nowhere.toml")


def test_a_password_comes_from_a_file_or_the_file_is_named(file: Path) -> None:
    broker = config.load(file).broker
    assert broker is not None
    with pytest.raises(BadConfig, match="password_file"):
        broker.password()
    (file.parent / "secret").write_text("s3cret word\n")
    assert broker.password() == "s3cret word"


def test_certificates_that_are_none_are_named(file: Path) -> None:
    (file.parent / "secret").write_text("not a certificate")
    broker = config.Broker(ca=file.parent / "secret")
    with pytest.raises(BadConfig, match=r"broker\.ca"):
        broker.tls()
