"""The Helm chart: linted, rendered, refused where it makes no sense, and kept in the registry
itself (docs/guides/running.md)."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.packages import ROOT
from tests.support.require import find_command, unavailable
from tests.support.server import UllageServer
from ullage import __version__
from ullage.config.settings import SETTINGS

pytestmark = [pytest.mark.client, pytest.mark.thorough]

CHART = ROOT / "deploy" / "helm" / "ullage"
SHARED = ("database.url=postgresql://ullage:secret@db/ullage", "storage.url=s3://books/main")
# Every part that can be switched on.
ALL = (
    *SHARED,
    *("replicaCount=3", "autoscaling.enabled=true", "podDisruptionBudget.maxUnavailable=1"),
    *("ingress.enabled=true", "ingress.hosts={registry.example.com}", "httproute.enabled=true"),
    *("httproute.parentRefs[0].name=gateway", "tlsSecretName=certificate"),
    *("metrics.enabled=true", "metrics.serviceMonitor.enabled=true"),
    *("metrics.prometheusRule.enabled=true",),
    *("auth.existingSecret=admin", "storage.existingSecret=keys", "config=threads = 8"),
)


def helm(*arguments: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    """helm v4, as `.ci/run` builds it or from the PATH, with settings of its own."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cached = caches / "ullage-ci" / "bin" / "helm"
    found = str(cached) if cached.exists() else find_command("helm")
    if found is None:
        unavailable("helm is not installed")
    places = {f"HELM_{kind}_HOME": str(home / kind) for kind in ("CACHE", "CONFIG", "DATA")}
    return subprocess.run(
        [found, *map(str, arguments)], env=os.environ | places, capture_output=True, text=True
    )


def rendered(folder: Path, *values: str, chart: Path = CHART) -> dict[str, Any]:
    """The documents by their kind, each of which there is once."""
    flags = [part for value in values for part in ("--set", value)]
    done = helm("template", "registry", chart, *flags, home=folder)
    assert done.returncode == 0, done.stderr
    documents = [each for each in yaml.safe_load_all(done.stdout) if each]
    assert len({each["kind"] for each in documents}) == len(documents)
    return {each["kind"]: each for each in documents}


def container(workload: dict[str, Any]) -> dict[str, Any]:
    (found,) = workload["spec"]["template"]["spec"]["containers"]
    return dict(found)


def environment(workload: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each.get("value") for each in container(workload)["env"]}


def test_lint_finds_nothing(tmp_path: Path) -> None:
    done = helm("lint", "--strict", CHART, home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_versions_are_the_packages() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_on_sqlite_it_is_one_process_with_a_volume(tmp_path: Path) -> None:
    found = rendered(tmp_path)
    assert set(found) == {"StatefulSet", "Service", "ServiceAccount"}
    workload = found["StatefulSet"]
    assert workload["spec"]["replicas"] == 1
    (claim,) = workload["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "data"
    assert environment(workload)["ULLAGE_AUTH"] == "true"


def test_its_pod_may_do_nothing_but_serve(tmp_path: Path) -> None:
    """And a Service called `ullage` gives it no ULLAGE_PORT, with which it would not start."""
    pod = rendered(tmp_path)["StatefulSet"]["spec"]["template"]["spec"]
    assert pod["enableServiceLinks"] is False
    assert pod["automountServiceAccountToken"] is False
    context = pod["containers"][0]["securityContext"]
    assert (context["runAsUser"], context["runAsNonRoot"]) == (65532, True)
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert pod["terminationGracePeriodSeconds"] > 30


def test_on_postgresql_and_a_bucket_it_is_as_many_as_are_asked_for(tmp_path: Path) -> None:
    found = rendered(tmp_path, *SHARED, "replicaCount=3")
    assert found["Deployment"]["spec"]["replicas"] == 3
    variables = environment(found["Deployment"])
    # The URL has a password in it.
    assert variables["ULLAGE_DATABASE"] is None
    assert found["Secret"]["stringData"]["url"] == SHARED[0].partition("=")[2]
    assert variables["ULLAGE_STORAGE"] == "s3://books/main"
    everything = rendered(tmp_path, *ALL)
    assert set(everything) == {
        *("Deployment", "Service", "ServiceAccount", "Secret", "ConfigMap", "Ingress"),
        *("HTTPRoute", "PodDisruptionBudget", "HorizontalPodAutoscaler"),
        *("ServiceMonitor", "PrometheusRule"),
    }
    assert "replicas" not in everything["Deployment"]["spec"]


def test_every_variable_is_a_setting_and_every_probe_a_route(tmp_path: Path) -> None:
    known = {setting.variable for setting in SETTINGS} | {"ULLAGE_CONFIG"}
    for values in ((), ALL, ("secrets.htpasswd=anna:x",)):
        found = rendered(tmp_path, *values)
        workload = found.get("StatefulSet") or found["Deployment"]
        assert set(environment(workload)) <= known
        served = container(workload)
        probes = [
            served[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")
        ]
        assert [probe["path"] for probe in probes] == ["/readyz", "/readyz", "/livez"]
        assert {probe["scheme"] for probe in probes} == {"HTTPS" if values == ALL else "HTTP"}
        mounted = {each["name"] for each in served["volumeMounts"]}
        volumes = {each["name"] for each in workload["spec"]["template"]["spec"]["volumes"]}
        volumes |= {
            each["metadata"]["name"] for each in workload["spec"].get("volumeClaimTemplates", ())
        }
        assert mounted == volumes


def test_figures_have_a_port_of_their_own_and_alerts_are_those_that_are_shipped(
    tmp_path: Path,
) -> None:
    found = rendered(tmp_path, *ALL)
    assert environment(found["Deployment"])["ULLAGE_METRICS"] == "0.0.0.0:9105"
    ports = {each["name"]: each["targetPort"] for each in found["Service"]["spec"]["ports"]}
    assert ports == {"registry": "registry", "metrics": "metrics"}
    assert [each["port"] for each in found["ServiceMonitor"]["spec"]["endpoints"]] == ["metrics"]
    rules = yaml.safe_load((ROOT / "deploy/prometheus/ullage.rules.yaml").read_text("utf-8"))
    assert found["PrometheusRule"]["spec"] == rules
    # The alerts ask for the job of this name.
    job = found["ServiceMonitor"]["spec"]["jobLabel"]
    assert found["Service"]["metadata"]["labels"][job] == "ullage"
    backends = found["Ingress"]["spec"]["rules"][0]["http"]["paths"]
    assert [each["backend"]["service"]["port"]["name"] for each in backends] == ["registry"]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("metrics.serviceMonitor.enabled=true", "nothing to scrape without metrics.enabled"),
        ("replicaCount=2", "replicaCount: more than 1 takes database.url"),
        ("autoscaling.enabled=true", "autoscaling: more than one replica takes database.url"),
        ("replicaCounts=2", "'replicaCounts' not allowed"),
        ("database.url=mysql://db/ullage", "database/url"),
        ("storage=filesystem", "storage"),
        ("service.type=Cluster", "service/type"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(tmp_path: Path, value: str, why: str) -> None:
    done = helm("template", "registry", CHART, "--set", value, home=tmp_path)
    assert done.returncode != 0
    assert why in done.stderr


def test_the_registry_keeps_its_own_chart(tmp_path: Path, ullage_server: UllageServer) -> None:
    """As an OCI artifact: pushed, pulled and rendered."""
    done = helm("package", CHART, "--destination", tmp_path, home=tmp_path)
    assert done.returncode == 0, done.stderr
    place = f"oci://{ullage_server.host}/charts"
    archive = tmp_path / f"ullage-{__version__}.tgz"
    done = helm("push", archive, place, "--plain-http", home=tmp_path)
    assert done.returncode == 0, done.stderr
    version = ("--version", __version__, "--plain-http", "--destination", tmp_path / "pulled")
    (tmp_path / "pulled").mkdir()
    done = helm("pull", f"{place}/ullage", *version, home=tmp_path)
    assert done.returncode == 0, done.stderr
    pulled = tmp_path / "pulled" / archive.name
    assert pulled.read_bytes() == archive.read_bytes()
    assert rendered(tmp_path, chart=pulled) == rendered(tmp_path)
