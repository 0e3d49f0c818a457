"""The pages of repositories and images: what they show, of whatever was pushed."""

import json
import re
from html import unescape

import httpx
import pytest

from tests.server.pushing import (
    image,
    index_of,
    push_blob,
    push_image,
    put_manifest,
)
from tests.support.registry import CONFIG, MANIFEST, descriptor
from tests.ui.visitors import Visitor, text_of
from ullage.oci.digest import digest_of

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def rows(page: httpx.Response) -> list[str]:
    """The digests of the images in a list, in its order."""
    return re.findall(r'name="digest" value="(sha256:[0-9a-f]+)"', page.text)


def tags_in(page: httpx.Response) -> list[str]:
    return re.findall(r'class="tag">([^<]+)<', page.text)


def test_a_repository_lists_its_images_the_last_push_first(
    client: httpx.Client, visitor: Visitor, name: str
) -> None:
    pushed = [push_image(client, name, f"v{n}", (b"%d" % n * 1000,)) for n in range(3)]
    page = visitor.get(f"/ui/repositories/{name}")
    assert rows(page) == pushed[::-1]
    assert "Deleting all of it frees" in text_of(page)
    assert f"docker pull {visitor.origin.partition('://')[2]}/{name}" in page.text


def test_platforms_and_signatures_are_folded_into_their_image(
    client: httpx.Client, visitor: Visitor, name: str
) -> None:
    platforms = [push_image(client, name, f"p{n}", (b"platform %d" % n,)) for n in range(2)]
    index = index_of(client, name, platforms)
    put_manifest(client, name, "multi", index)
    for number in range(2):
        client.delete(f"/acr/v1/{name}/_tags/p{number}")
    digest = digest_of(json.dumps(index).encode())
    signature = digest.replace(":", "-") + ".sig"
    push_image(client, name, signature, (b"signature",))
    page = visitor.get(f"/ui/repositories/{name}")
    assert rows(page) == [digest]
    assert "4 manifests" in text_of(page)
    assert signature in visitor.get(f"/ui/repositories/{name}?tab=tags").text
    shown = visitor.get(f"/ui/images/{name}/multi")
    assert all(each.partition(":")[2][:12] in text_of(shown) for each in platforms)


def test_images_are_sorted_and_filtered_over_all_of_them(
    client: httpx.Client, visitor: Visitor, name: str
) -> None:
    """Natural order, v9 before v10; sizes over the whole repository, not the page."""
    for tag, size in (("v10", 10), ("v9", 30_000), ("v1", 2_000), ("other", 5)):
        push_image(client, name, tag, (tag.encode() * size,))
    by_size = tags_in(visitor.get(f"/ui/repositories/{name}?sort=size"))
    assert by_size == ["v9", "v1", "v10", "other"]
    by_tag = tags_in(visitor.get(f"/ui/repositories/{name}?sort=tag&q=v"))
    assert by_tag == ["v1", "v9", "v10"]
    assert "No image has this" in text_of(visitor.get(f"/ui/repositories/{name}?q=nothing"))


def test_pages_lead_on_to_all_of_it(client: httpx.Client, visitor: Visitor, name: str) -> None:
    config = b"{}"
    push_blob(client, name, config)
    for number in range(120):
        manifest = {
            "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, config),
            "layers": [], "annotations": {"number": str(number)},
        }  # fmt: skip
        put_manifest(client, name, f"v{number}", manifest)
    for query in ("", "?sort=size", "?tab=tags"):
        found: list[str] = []
        path: str | None = f"/ui/repositories/{name}{query}"
        for _ in range(3):
            assert path is not None
            page = visitor.get(path)
            kind = "tag" if "tab=tags" in query else "digest"
            found += re.findall(rf'name="{kind}" value="([^"]+)"', page.text)
            link = re.search(r'rel="next" href="([^"]+)"', page.text)
            path = f"/ui/repositories/{name}{unescape(link[1])}" if link else None
        assert path is None
        assert len(found) == len(set(found)) == 120, query
        assert len(visitor.get(f"/ui/repositories/{name}{query}").content) <= 60_000


def test_an_image_shows_its_layers_config_and_referrers(
    client: httpx.Client, visitor: Visitor, name: str
) -> None:
    config = json.dumps({
        "os": "linux", "architecture": "amd64", "config": {"Cmd": ["serve"], "Labels": {"a": EVIL}},
        "history": [{"created_by": f"RUN {EVIL}"}],
    }).encode()  # fmt: skip
    push_blob(client, name, config)
    push_blob(client, name, b"layer")
    manifest = {
        "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, config),
        "layers": [descriptor(CONFIG, b"layer")],
        "annotations": {"url": "https://example.com/", "bad": "javascript:alert(1)", "x": EVIL},
    }  # fmt: skip
    assert put_manifest(client, name, "v1", manifest).status_code == 201
    digest = digest_of(json.dumps(manifest).encode())
    referrer = image(
        client,
        name,
        (b"sbom",),
        artifactType=f"application/{'x' * 60}",
        subject={"mediaType": MANIFEST, "digest": digest, "size": 1},
    )
    put_manifest(client, name, digest_of(json.dumps(referrer).encode()), referrer)
    page = visitor.get(f"/ui/images/{name}/v1")
    text = text_of(page)
    assert digest in text
    assert "a tag is on it: v1" in text
    for part in ("serve", "RUN ", "application/xxx", "this image only"):
        assert part in text, part
    assert 'href="https://example.com/"' in page.text
    assert "<script>alert" not in page.text
    assert "<img" not in page.text
    assert 'href="javascript' not in page.text
    assert visitor.get(f"/ui/images/{name}/{digest}").status_code == 200
    assert visitor.get(f"/ui/images/{name}/absent").status_code == 404


def test_pulls_are_counted_by_day_and_class(
    client: httpx.Client, visitor: Visitor, name: str
) -> None:
    digest = push_image(client, name, "v1")
    quiet = visitor.get(f"/ui/repositories/{name}?tab=pulls")
    assert "Nothing was pulled here" in text_of(quiet)
    for agent, times, reference in (
        ("containerd/1.7", 3, "v1"),
        ("docker/25.0 go/1.22", 2, "v1"),
        ("containerd/1.7", 1, digest),
    ):
        for _ in range(times):
            headers = {"User-Agent": agent, "Accept": "*/*"}
            client.get(f"/v2/{name}/manifests/{reference}", headers=headers).raise_for_status()
    page = visitor.get(f"/ui/repositories/{name}?tab=pulls")
    assert "Pulls of the last 60 days" in text_of(page)
    sums = re.findall(r"</svg> (\w+) <b>(\d+)</b>", page.text)
    assert sum(int(pulls) for _, pulls in sums) == 6
    assert ("node", "4") in sums or ("node", "6") in sums
    most = page.text.partition("Pulled most")[2]
    assert re.findall(r'<td class="n">(\d+)</td>', most) == ["5", "1"]
    bars = re.findall(r'height="([\d.]+)"><title>', page.text)
    assert round(sum(map(float, bars))) == 100
    assert visitor.get("/ui/repositories/absent?tab=pulls").status_code == 404


def test_no_page_has_a_style_or_a_script_of_its_own(
    client: httpx.Client, visitor: Visitor, name: str
) -> None:
    """The Content-Security-Policy would stop them; ui.md section 2."""
    push_image(client, name, "v1")
    for path in (
        "",
        "repositories",
        f"repositories/{name}",
        f"images/{name}/v1",
        "jobs",
        "deleted",
    ):
        html = visitor.get(f"/ui/{path}").text
        assert not re.search(r"\sstyle=|\son\w+=|<style|<script>|javascript:", html), path


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("repositories/absent", 404), ("repositories/Bad", 400), ("images/absent/v1", 404),
        ("repositories?sort=colour", 400), ("repositories/absent?tab=x", 400), ("plans/0", 404),
        (f"plans/{'0' * 32}", 404), ("jobs/0", 404), (f"jobs/{'0' * 32}", 404), ("deleted/0", 404),
        (f"deleted/{'0' * 32}", 404), ("images/a/sha256:0", 400), ("?lang=zz", 200),
    ],
)  # fmt: skip
def test_what_is_not_there_is_a_page_that_says_so(visitor: Visitor, path: str, status: int) -> None:
    page = visitor.get(f"/ui/{path}")
    assert (page.status_code, page.headers["Content-Type"][:9]) == (status, "text/html")
