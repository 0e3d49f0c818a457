"""podman, against a real server process."""

import pytest

from tests.clients.builders import BuilderContract
from tests.clients.containers import Podman

pytestmark = pytest.mark.client


class TestPodman(BuilderContract):
    tool = Podman
