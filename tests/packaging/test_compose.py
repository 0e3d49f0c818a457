"""The compose files and Caddy's: understood by the programs that read them, and by the registry."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.packages import ROOT
from tests.support.require import require_command
from ullage import __version__
from ullage.config.loading import load_settings

FOLDER = ROOT / "deploy" / "compose"
ENVIRONMENT = {
    "DOMAIN": "registry.example.com",
    "POSTGRES_PASSWORD": "long-and-secret",
    "S3_ACCESS_KEY": "access",
    "S3_SECRET_KEY": "secret",
}
# What each file starts of ours.
OURS = {"laptop.yaml": ("ullage",), "company.yaml": ("one", "two")}


def services(name: str) -> dict[str, Any]:
    """With variables put in, as compose does."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    filled = re.sub(
        r"\$\{(\w+)(?::[-?]([^}]*))?\}", lambda found: ENVIRONMENT.get(found[1], found[2]), text
    )
    return dict(yaml.safe_load(filled)["services"])


@pytest.mark.parametrize("name", OURS)
def test_the_settings_are_ones_that_serve_takes(name: str) -> None:
    """In the image, which listens on every address."""
    for service in OURS[name]:
        found = services(name)[service]
        variables = {**found["environment"], "ULLAGE_LISTEN": "0.0.0.0:5000"}
        settings = load_settings({}, variables)
        assert settings.auth
        assert found["image"].endswith(f"/ullage:{__version__}")
        assert (found["read_only"], found["cap_drop"]) == (True, ["ALL"])


def test_on_a_laptop_only_this_machine_is_served() -> None:
    assert services("laptop.yaml")["ullage"]["ports"] == ["127.0.0.1:5000:5000"]


def test_in_a_company_only_caddy_is_reached_from_outside() -> None:
    found = services("company.yaml")
    assert [name for name, service in found.items() if "ports" in service] == ["caddy"]
    assert found["one"] == found["two"]


@pytest.mark.client
@pytest.mark.thorough
@pytest.mark.parametrize("name", OURS)
def test_compose_understands_the_file(name: str) -> None:
    command = [require_command("docker-compose"), "-f", str(FOLDER / name), "config"]
    done = subprocess.run(
        command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, cwd=FOLDER
    )
    assert done.returncode == 0, done.stderr
    assert set(OURS[name]) <= set(yaml.safe_load(done.stdout)["services"])


@pytest.mark.client
@pytest.mark.thorough
def test_caddy_understands_its_file_and_asks_both(tmp_path: Path) -> None:
    command = [require_command("caddy"), "adapt", "--config", str(FOLDER / "Caddyfile")]
    home = {"HOME": str(tmp_path), "DOMAIN": ENVIRONMENT["DOMAIN"]}
    done = subprocess.run(
        [*command, "--adapter", "caddyfile", "--validate"],
        env=os.environ | home,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    text = json.dumps(json.loads(done.stdout))
    assert all(f'"dial": "{name}:5000"' in text for name in OURS["company.yaml"])
    assert '"registry.example.com"' in text
