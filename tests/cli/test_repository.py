"""`ullage repository …` and `ullage manifest …` on a real server (azure.md sections 2, 3)."""

import hashlib
import json
import re
import subprocess
import sys
from typing import Any

import httpx
import pytest

from tests.cli.conftest import Ullage
from tests.server.pushing import push_image, put_manifest
from tests.support.server import UllageServer, command_environment

pytestmark = [pytest.mark.usefixtures("here"), pytest.mark.thorough]

UNKNOWN = "sha256:" + "0" * 64
DEPRECATED = (
    "WARNING: This command has been deprecated and will be removed in a future release. "
    "Use 'acr manifest list-metadata' instead.\n"
)


@pytest.fixture
def digests(client: httpx.Client, name: str) -> dict[str, str]:
    """The article's repository: v1 orphaned by a push of `latest`, v2, and v3 that is `latest`."""
    pushed: dict[str, str] = {
        tag: push_image(client, name, "latest", (b"base", tag.encode())) for tag in ("v1", "v3")
    }
    push_image(client, name, "v3", (b"base", b"v3"))
    return {**pushed, "v2": push_image(client, name, "v2", (b"base", b"v2"))}


def answer(ullage: Ullage, *line: str) -> Any:
    done = ullage(*line)
    assert done.code == 0, done
    return json.loads(done.out)


# --- lists ----------------------------------------------------------------------------------------


def test_list_is_a_list_of_names(ullage: Ullage, client: httpx.Client, name: str) -> None:
    push_image(client, name, "v1")
    assert name in answer(ullage, "repository", "list")
    assert f"\n{name}\n" in ullage("repository", "list", "-o", "table").out
    assert len(answer(ullage, "repository", "list", "--top", "1")) == 1


def test_show_manifests_is_as_in_the_article(
    ullage: Ullage, name: str, digests: dict[str, str]
) -> None:
    """azure.md section 3.6: digest, tags and timestamp; null for the orphan."""
    done = ullage("repository", "show-manifests", "--repository", name)
    assert (done.code, done.err) == (0, DEPRECATED)
    shown = json.loads(done.out)
    assert [sorted(one) for one in shown] == [["digest", "tags", "timestamp"]] * 3
    assert {one["digest"]: one["tags"] for one in shown} == {
        digests["v1"]: None,
        digests["v2"]: ["v2"],
        digests["v3"]: ["latest", "v3"],
    }
    assert done.out == json.dumps(shown, indent=2, sort_keys=True) + "\n"


def test_untagged_manifests_are_found_by_query(
    ullage: Ullage, name: str, digests: dict[str, str]
) -> None:
    line = ("--repository", name, "--query", "[?tags==null].digest", "--only-show-errors")
    done = ullage("repository", "show-manifests", *line, "-o", "tsv")
    assert (done.out, done.err) == (digests["v1"] + "\n", "")


def test_orderby_and_top_choose_the_newest(
    ullage: Ullage, name: str, digests: dict[str, str]
) -> None:
    line = ("show-tags", "--repository", name, "--orderby", "time_desc", "--top", "1")
    assert answer(ullage, "repository", *line) == ["v2"]
    (detailed,) = answer(ullage, "repository", *line, "--detail")
    assert (detailed["name"], detailed["digest"]) == ("v2", digests["v2"])


def test_a_list_of_many_pages_is_whole(ullage: Ullage, client: httpx.Client, name: str) -> None:
    """azure.md section 2.2: 100 a page, `Link` to the next."""
    push_image(client, name, "v000")
    manifest = client.get(f"/v2/{name}/manifests/v000").json()
    tags = [f"v{number:03}" for number in range(205)]
    for tag in tags[1:]:
        put_manifest(client, name, tag, manifest)
    assert answer(ullage, "repository", "show-tags", "--repository", name) == tags
    line = ("repository", "show-tags", "--repository", name, "--top", "150")
    assert answer(ullage, *line) == tags[:150]


def test_a_table_is_for_people(ullage: Ullage, name: str, digests: dict[str, str]) -> None:
    locking = ("--image", f"{name}@{digests['v2']}", "--delete-enabled", "false")
    assert ullage("repository", "update", *locking).code == 0
    done = ullage("manifest", "list-metadata", "--name", name, "-o", "table")
    rows = {line.split()[0]: line for line in done.out.splitlines()}
    assert rows["Digest"].split() == ["Digest", "Tags", "Platform", "Size", "Age", "Locked"]
    orphan, locked = (rows[digests[tag][:19]] for tag in ("v1", "v2"))
    assert "(untagged)  linux/amd64" in orphan
    assert " B " in orphan
    assert locked.endswith("delete")


# --- one ------------------------------------------------------------------------------------------


def test_show_tells_of_a_repository_a_tag_and_a_manifest(
    ullage: Ullage, name: str, digests: dict[str, str], here: UllageServer
) -> None:
    repository = answer(ullage, "repository", "show", "--repository", name)
    assert (repository["imageName"], repository["manifestCount"]) == (name, 3)
    assert answer(ullage, "repository", "show", "--image", name)["name"] == "latest"
    by_digest = answer(ullage, "repository", "show", "--image", f"{name}@{digests['v3']}")
    assert by_digest["tags"] == ["latest", "v3"]
    specifier = f"{here.host}/{name}@{digests['v3']}"
    assert answer(ullage, "manifest", "show-metadata", specifier) == by_digest


def test_show_says_3_for_what_does_not_exist_and_others_say_1(ullage: Ullage, name: str) -> None:
    """azure.md section 3.2, exit codes."""
    for line, code in (
        (("repository", "show", "--repository", name), 3),
        (("repository", "show", "--image", f"{name}:v1"), 3),
        (("manifest", "show", "--name", f"{name}:v1"), 3),
        (("manifest", "show-metadata", "--name", f"{name}@{UNKNOWN}"), 3),
        (("repository", "show-tags", "--repository", name), 1),
        (("repository", "delete", "--image", f"{name}@{UNKNOWN}", "--yes"), 1),
        (("repository", "untag", "--image", name), 1),
    ):
        done = ullage(*line)
        assert (done.code, done.out) == (code, ""), (line, done)
        last = done.err.splitlines()[-1]
        # Time and request only with --debug; and what it is about (faults B46).
        assert last.startswith("ERROR: Error: "), done
        assert "Correlation ID" not in last
        assert name in last, done
        last = ullage(*line, "--debug").err.splitlines()[-1]
        assert re.match(
            r"ERROR: 2[0-9-]{9} [0-9:.]{15} Error: .* Correlation ID: [0-9a-f-]{36}\.$", last
        )


def test_show_raw_is_the_manifest_byte_for_byte(
    name: str, digests: dict[str, str], here: UllageServer
) -> None:
    command = [sys.executable, "-m", "ullage", "manifest", "show", "--name", f"{name}:v2", "--raw"]
    environment = command_environment({"ULLAGE_REGISTRY": here.host})
    raw = subprocess.run(command, env=environment, capture_output=True, check=True).stdout
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == digests["v2"]


def test_manifest_list_has_them_all_in_order(
    ullage: Ullage, client: httpx.Client, name: str, digests: dict[str, str]
) -> None:
    expected = [
        client.get(f"/v2/{name}/manifests/{one}").json() for one in sorted(digests.values())
    ]
    assert answer(ullage, "manifest", "list", "--name", name) == expected


def test_referrers_are_found_to_the_end(ullage: Ullage, client: httpx.Client, name: str) -> None:
    """azure.md section 3.1: --recursive is fully transitive."""
    image = push_image(client, name, "v1")
    chain = [image]
    for kind in ("signature", "note"):
        subject = client.get(f"/v2/{name}/manifests/{chain[-1]}")
        descriptor = {
            "mediaType": subject.headers["Content-Type"],
            "digest": chain[-1],
            "size": len(subject.content),
        }
        more = {"subject": descriptor, "artifactType": f"application/x-{kind}"}
        chain.append(push_image(client, name, kind, (kind.encode(),), **more))
    line = ("manifest", "list-referrers", "--name", f"{name}:v1")
    direct = answer(ullage, *line)["manifests"]
    assert [one["digest"] for one in direct] == chain[1:2]
    every = answer(ullage, *line, "--recursive")["manifests"]
    assert [one["digest"] for one in every] == chain[1:]
    assert answer(ullage, *line, "--artifact-type", "application/x-other") == {"manifests": []}


# --- changes --------------------------------------------------------------------------------------


def test_a_lock_holds_until_it_is_taken_off(
    ullage: Ullage, name: str, digests: dict[str, str]
) -> None:
    """azure.md section 5.4: 405 with its own words, exit code 1."""
    lock = ("manifest", "update-metadata", "--name", f"{name}@{digests['v2']}")
    locked = answer(ullage, *lock, "--write-enabled", "false")
    assert locked["changeableAttributes"]["writeEnabled"] is False
    refused = ullage("repository", "delete", "--image", f"{name}:v2", "--yes")
    assert refused.code == 1
    assert "Error: The operation is disallowed on this registry, repository or" in refused.err
    answer(ullage, *lock, "--write-enabled")
    assert ullage("repository", "delete", "--image", f"{name}:v2", "--yes").code == 0


def test_update_without_flags_shows(ullage: Ullage, name: str, digests: dict[str, str]) -> None:
    line = ("--repository", name)
    before = answer(ullage, "repository", "show", *line)
    assert answer(ullage, "repository", "update", *line) == before


def test_untag_takes_the_tag_and_leaves_the_image(
    ullage: Ullage, client: httpx.Client, name: str, digests: dict[str, str]
) -> None:
    done = ullage("repository", "untag", "--image", f"{name}:v2")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert client.get(f"/v2/{name}/manifests/v2").status_code == 404
    assert client.get(f"/v2/{name}/manifests/{digests['v2']}").status_code == 200


def test_delete_by_tag_names_the_manifest_and_all_its_tags(
    ullage: Ullage, client: httpx.Client, name: str, digests: dict[str, str]
) -> None:
    """azure.md section 3.4, with --yes: a warning on stderr without a full stop."""
    done = ullage("repository", "delete", "--image", f"{name}:v3", "--yes")
    assert (done.code, done.out) == (0, "")
    assert done.err == (
        f"WARNING: This operation will delete the manifest '{digests['v3']}' "
        f"and all the following images: '{name}:latest', '{name}:v3'\n"
    )
    for reference in ("latest", "v3", digests["v3"]):
        assert client.get(f"/v2/{name}/manifests/{reference}").status_code == 404


def test_deleting_a_repository_tells_what_went(
    ullage: Ullage, client: httpx.Client, name: str, digests: dict[str, str]
) -> None:
    gone = answer(ullage, "repository", "delete", "--repository", name, "--yes")
    assert gone == {
        "manifestsDeleted": sorted(digests.values()),
        "tagsDeleted": ["latest", "v2", "v3"],
    }
    assert client.get(f"/v2/{name}/tags/list").status_code == 404


def test_without_a_terminal_nothing_is_deleted_unasked(
    ullage: Ullage,
    client: httpx.Client,
    name: str,
    digests: dict[str, str],
) -> None:
    """azure.md section 3.4."""
    for line in (
        ("repository", "delete", "--image", f"{name}:v2"),
        ("repository", "delete", "--repository", name),
        ("repository", "delete", "--image", f"{name}:v2", "--image", name),
        ("manifest", "delete", "--name", f"{name}:v2"),
    ):
        done = ullage(*line)
        assert (done.code, done.out) == (1, "")
        assert done.err == (
            "ERROR: Unable to prompt for confirmation as no tty available. Use --yes.\n"
        )
    assert client.get(f"/v2/{name}/manifests/{digests['v2']}").status_code == 200


def test_a_name_that_would_be_another_request_is_only_a_name(
    ullage: Ullage, client: httpx.Client, name: str
) -> None:
    """A `?`, a `#` or dots in a name change neither the path nor the query."""
    push_image(client, name, "v1")
    for odd in (f"{name}/_tags/v1?x=", f"x/../{name}", f"{name}#", f"{name}%2f_tags", "a b"):
        done = ullage("repository", "delete", "--repository", odd, "--yes")
        assert done.code == 1, (odd, done)
    assert client.get(f"/v2/{name}/manifests/v1").status_code == 200


def test_nobody_there_is_told_in_azs_words(ullage: Ullage) -> None:
    done = ullage("repository", "list", "--name", "http://127.0.0.1:1")
    assert done.code == 1
    assert done.err == (
        "ERROR: Could not connect to the registry login server '127.0.0.1:1'. Please verify that "
        "the registry exists and the URL 'http://127.0.0.1:1/v2/' is reachable from your "
        "environment.\nConnection refused.\n"
    )


def test_verbose_and_debug_tell_what_is_asked(ullage: Ullage, here: UllageServer) -> None:
    done = ullage("repository", "list", "--verbose", "-o", "none")
    assert done.err.startswith(f"INFO: GET {here.url}/v2/_catalog?n=100: 200 in ")
    assert "DEBUG: < content-type: application/json" in ullage("repository", "list", "--debug").err
