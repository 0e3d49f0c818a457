"""`/api/v1` is as its description says (docs/reference/openapi.json)."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.errors import Unsatisfiable
from jsonschema_rs import validator_for
from openapi_spec_validator import validate
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.server.pushing import push_image
from tests.support.generate_docs import FOLDER
from tests.support.server import UllageServer
from ullage.server.api.routes import description
from ullage.server.app import ROUTES

DOCUMENT: dict[str, Any] = json.loads((FOLDER / "openapi.json").read_text(encoding="utf-8"))
OPERATIONS = [
    (path, method, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
# Requests that are made in all; half of them are malformed.
REQUESTS = int(os.environ.get("ULLAGE_EXAMPLES", 310))


def test_it_is_openapi_3_1() -> None:
    validate(DOCUMENT)
    assert DOCUMENT["openapi"] == "3.1.0"


def test_every_route_of_ours_is_in_it_and_nothing_else_is() -> None:
    ours = [route for route in ROUTES if route.path.startswith("/api/v1/")]
    assert sorted((path, method) for path, method, _ in OPERATIONS) == sorted(
        (route.path, route.method.lower()) for route in ours
    )
    assert len({operation["operationId"] for _, _, operation in OPERATIONS}) == len(ours)


def test_it_is_served_as_it_is_written(client: httpx.Client) -> None:
    answer = client.get("/api/v1/openapi.json")
    assert (answer.status_code, answer.json()) == (200, DOCUMENT)
    assert description() == DOCUMENT


@pytest.mark.parametrize(
    "operation", [each for _, _, each in OPERATIONS], ids=lambda each: str(each["operationId"])
)
def test_an_example_is_what_its_schema_says(operation: dict[str, Any]) -> None:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    assert content is None or "example" in content
    for each in (*operation["parameters"], *([content] if content else ())):
        if "example" in each:
            schema = {**each["schema"], "components": DOCUMENT["components"]}
            validator_for(schema).validate(each["example"])


@pytest.mark.slow
def test_no_request_that_it_describes_is_answered_otherwise_than_it_says(tmp_path: Path) -> None:
    """No 5xx, no status, no body that is not described: of good requests, and of malformed ones."""
    with UllageServer(tmp_path / "data") as server, httpx.Client(base_url=server.url) as client:
        digest = push_image(client, "app", "v1", (b"layer",))
        plan = client.post("/api/v1/plans", json={"repositories": ["app"]}).json()["id"]
        job = client.post("/api/v1/retention/runs", json={"dry_run": True}).json()["id"]
        known = {"plan": plan, "job": job, "digest": digest, "operation": plan}
        began, answers = time.monotonic(), Counter[int]()
        schema = schemathesis.openapi.from_url(f"{server.url}/api/v1/openapi.json")
        operations = [each.ok() for each in schema.get_all_operations() if isinstance(each, Ok)]
        for operation in operations:
            for mode in GenerationMode:
                answers += _try(operation, mode, known, REQUESTS // len(operations) // 2)
        assert server.terminate() == 0
        assert "Traceback" not in server.log
    assert sum(answers.values()) >= REQUESTS // 2
    print(f"{dict(answers)} in {time.monotonic() - began:.1f} s")


def _try(operation: Any, mode: GenerationMode, known: dict[str, str], number: int) -> Counter[int]:
    """So many requests of an operation; half of the names in paths are of what there is."""
    answers: Counter[int] = Counter()

    @seed(0)
    @settings(
        max_examples=max(1, number),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        if sum(answers.values()) % 2:
            case.path_parameters |= {
                name: known[name] for name in case.path_parameters or {} if name in known
            }
        answers[case.call_and_validate(checks=CHECKS).status_code] += 1

    # What takes nothing cannot be asked for wrongly.
    with suppress(Unsatisfiable):
        run()
    return answers
