"""What is shipped for Prometheus and Grafana names figures that exist (guides/monitoring.md)."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.require import require_command
from ullage.server.monitoring import collector

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "ullage.rules.yaml"
TESTS = RULES.with_name("ullage.rules.test.yaml")
DASHBOARD = ROOT / "deploy" / "grafana" / "ullage.json"
GUIDE = (ROOT / "docs" / "guides" / "monitoring.md").read_text("utf-8")
_NAMED = re.compile(r"\b(?:ullage|http_server|process)_[a-z_]+[a-z]\b")
# What the library itself says of a process.
_OF_PROCESSES = {"process_resident_memory_bytes"}


def names(text: str) -> set[str]:
    """The figures that are named in a text."""
    return {re.sub(r"_(?:bucket|count|sum)$", "", name) for name in _NAMED.findall(text)}


def existing() -> set[str]:
    """Every figure that the collector makes, as it is called in an answer."""
    source = Path(collector.__file__).read_text("utf-8")
    families = re.findall(
        r"(Gauge|Counter|Histogram)MetricFamily\(\s*\"(\w+)\"|_(gauge)\(\s*\"(\w+)\"", source
    )
    found = {
        (name or gauge) + ("_total" if kind == "Counter" else "")
        for kind, name, _, gauge in families
    }
    tallied = {f"{metric}_total" for _, metric, *_ in collector._TALLIES}
    return found | tallied | {"ullage_info"}


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def alerts() -> list[dict[str, object]]:
    (group,) = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return list(group["rules"])


def test_the_rules_name_figures_that_exist() -> None:
    text = " ".join(str(rule["expr"]) for rule in alerts())
    assert names(text) - existing() == set()


def test_the_dashboard_names_figures_that_exist_and_all_of_them() -> None:
    named = names(" ".join(expressions())) - _OF_PROCESSES
    # What this process is has no place in a graph, but chooses the processes.
    assert existing() - {"ullage_info"} == named
    assert "label_values(ullage_info, instance)" in DASHBOARD.read_text("utf-8")


def test_the_guide_names_every_figure_and_no_other() -> None:
    listed = names(" ".join(re.findall(r"^\| (`.*?) \|", GUIDE, re.MULTILINE)))
    assert listed - {"process_*"} == existing()


def test_the_dashboard_can_be_found_and_chosen_from() -> None:
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    assert dashboard["uid"] == "ullage"
    variables = [each["name"] for each in dashboard["templating"]["list"]]
    assert variables == ["datasource", "instance"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_each_alert_says_what_to_do(rule: dict[str, object]) -> None:
    """Its runbook is a heading of the guide, and promtool's tests fire it."""
    notes = rule["annotations"]
    assert isinstance(notes, dict)
    assert set(notes) == {"summary", "description", "runbook_url"}
    page, _, heading = str(notes["runbook_url"]).partition("#")
    assert page == "docs/guides/monitoring.md"
    assert heading == str(rule["alert"]).lower()
    assert f"\n### {rule['alert']}\n" in GUIDE
    tried = yaml.safe_load(TESTS.read_text("utf-8"))["tests"]
    fired = {
        test["alertname"]
        for each in tried
        for test in each["alert_rule_test"]
        if test["exp_alerts"]
    }
    assert rule["alert"] in fired


@pytest.mark.client
@pytest.mark.parametrize(
    "command", [("check", RULES.name), ("test", TESTS.name)], ids=lambda c: c[0]
)
def test_prometheus_itself_takes_the_rules_and_fires_them_in_time(command: tuple[str, str]) -> None:
    promtool = require_command("promtool")
    what, file = command
    done = subprocess.run(
        [promtool, what, "rules", file], cwd=RULES.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.client
def test_prometheus_itself_takes_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    promtool = require_command("promtool")
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$instance", ".*")}
        for number, expression in enumerate(expressions())
    ]
    file = tmp_path / "panels.yaml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), "utf-8")
    done = subprocess.run([promtool, "check", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
