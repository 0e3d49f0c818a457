"""The packages, built once."""

import pytest

from tests.support.packages import Packages, build_packages


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """The wheel and the source archive of this tree."""
    return build_packages(tmp_path_factory.mktemp("dist"))
