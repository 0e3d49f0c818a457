"""The reference says what the code does: every setting, endpoint and error, and no other."""

import inspect
import re
from pathlib import Path

import pytest

from tests.support.generate_docs import FOLDER, PAGES, error_classes
from ullage import server
from ullage.config.settings import SETTINGS
from ullage.oci import errors
from ullage.server.acr import data_plane
from ullage.server.app import ROUTES
from ullage.server.distribution import routes as distribution
from ullage.server.http import parameters
from ullage.server.http.errors import STATUS

API = (FOLDER / "api.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_what_the_code_says_now(name: str) -> None:
    """After a change: python -m tests.support.generate_docs."""
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name]()


def test_every_setting_is_in_the_reference() -> None:
    page = PAGES["settings.md"]()
    for setting in SETTINGS:
        for word in (setting.name, setting.flag, setting.variable, setting.help):
            assert word in page


def test_every_endpoint_is_in_the_reference_and_nothing_else_is() -> None:
    """ECR Public, 2022: no hidden routes."""
    rows = re.findall(r"^\| ([\w-]+) \| `([A-Z]+) (/\S*)` \| (?=\d)", API, re.MULTILINE)
    assert rows == [(route.endpoint, route.method, route.path) for route in ROUTES]


def test_every_endpoint_of_the_specification_has_a_route() -> None:
    """end-11 is a POST of end-4 with other parameters."""
    served = {route.endpoint for route in ROUTES if route.endpoint.startswith("end-")}
    assert served == {f"end-{n}" for n in range(1, 15) if n != 11}


def test_every_parameter_is_in_the_reference_and_nothing_else_is() -> None:
    table = API.partition("## Parameters")[2].partition("## Headers")[0]
    documented = {
        parameter
        for row in re.findall(r"^\| (?:end|cat|acr)[^|]*\|([^|]*)\|", table, re.MULTILINE)
        for parameter in re.findall(r"`([\w-]+)`", row)
    }
    sources = [path.read_text() for path in Path(distribution.__file__).parent.glob("*.py")]
    source = "".join(
        [*sources, inspect.getsource(data_plane), inspect.getsource(parameters.page_size)]
    )
    read = set(re.findall(r"(?:query|query_of\(request\))\.(?:one|all)\(\"([\w-]+)\"\)", source))
    assert documented == read


def test_every_header_of_ours_is_in_the_reference() -> None:
    table = API.partition("## Headers")[2].partition("## Uploads")[0]
    sources = "".join(path.read_text() for path in Path(server.__file__).parent.rglob("*.py"))
    sent = set(re.findall(r"\"((?:OCI|Docker)-[\w-]+)\"", sources)) - {"Docker-Upload-UUID"}
    assert sent == set(re.findall(r"`((?:OCI|Docker)-[\w-]+)`", table))


def test_every_error_has_a_status_of_its_own_kind() -> None:
    """A refusal is 4xx; 503 and 507 are for what may pass. Nothing falls through to 500."""
    found = dict(error_classes())
    assert {kind.__name__ for kind in STATUS} <= {kind.__name__ for kind in found}
    for kind, status in found.items():
        expected = {errors.Unavailable: {503}, errors.StorageFull: {507}}
        assert status in expected.get(kind, set(range(400, 500))), kind
