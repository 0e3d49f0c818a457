"""buildah, against a real server process."""

import pytest

from tests.clients.builders import BuilderContract
from tests.clients.containers import Buildah

pytestmark = pytest.mark.client


class TestBuildah(BuilderContract):
    tool = Buildah
