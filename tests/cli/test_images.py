"""azure.md section 3.1: what --image names."""

import pytest

from ullage.cli.client.image_names import Image, parse_image
from ullage.cli.shell.errors import Failure


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("app", Image("app", "latest", "")),
        ("team/app:v1", Image("team/app", "v1", "")),
        ("team/app@sha256:12", Image("team/app", "", "sha256:12")),
    ],
)
def test_an_image_is_a_name_with_a_tag_or_a_digest(text: str, expected: Image) -> None:
    assert parse_image(text) == expected
    assert parse_image(str(expected)) == expected


@pytest.mark.parametrize(
    "text", ["host:5000/app:v1", "app@sha256:1@sha256:2", "app:", ":v1", "@sha256:1", "app@", ""]
)
def test_anything_else_is_refused_with_azs_text(text: str) -> None:
    """An empty part would make another request of it: `app@` the repository's listing."""
    with pytest.raises(Failure, match=r"^The name of the image may include a tag in the format"):
        parse_image(text)


def test_untag_takes_no_digest() -> None:
    with pytest.raises(
        Failure, match=r"^The name of the image may include a tag in the format 'name:tag'\.$"
    ):
        parse_image("app@sha256:12", allow_digest=False)
