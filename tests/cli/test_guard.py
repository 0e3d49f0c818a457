"""`ullage guard` on a real server: what `kubectl get -o json` prints protects what runs."""

import io
import json
from typing import Any

import httpx
import pytest

from tests.cli.conftest import Done, Ullage
from tests.server.pushing import push_image
from ullage.cli.commands.reported import images_in
from ullage.cli.shell.errors import Failure

pytestmark = pytest.mark.usefixtures("here")
ID = "sha256:" + "0" * 64


def answer(done: Done) -> Any:
    assert done.code == 0, done
    return json.loads(done.out)


def of_template(kind: str, image: str, **spec: Any) -> dict[str, Any]:
    template = {"spec": {"containers": [{"name": "c", "image": image}]}}
    metadata = {"namespace": "shop", "name": kind.lower()}
    return {"kind": kind, "metadata": metadata, "spec": {"template": template, **spec}}


def pod(image: str, image_id: str, **more: Any) -> dict[str, Any]:
    owner = {"kind": "ReplicaSet", "name": "app-5d9c"}
    metadata = {"namespace": "shop", "name": "app-5d9c-x", "ownerReferences": [owner]}
    status = {"containerStatuses": [{"name": "c", "image": "shown", "imageID": image_id}]}
    spec = {"containers": [{"name": "c", "image": image}], **more}
    return {"kind": "Pod", "metadata": metadata, "spec": spec, "status": status}


def test_pods_and_what_makes_them_are_read() -> None:
    items = [
        pod("app:v1", f"reg/app@{ID}", initContainers=[{"name": "i", "image": "init:v1"}]),
        pod("app:v1", f"reg/app@{ID}", initContainers=[{"name": "i", "image": "init:v1"}]),
        pod("app:v2", ""),
        of_template("ReplicaSet", "old:v1", replicas=0),
        of_template("Deployment", "app:v1", replicas=2),
    ]
    job = {"spec": of_template("Job", "cron:v1")["spec"]}
    items.append({"kind": "CronJob", "metadata": {"name": "nightly"}, "spec": {"jobTemplate": job}})
    own = "shop/replicaset/app-5d9c"
    assert images_in(json.dumps({"kind": "List", "items": items}), "auto") == [
        {"image": "app:v1", "image_id": f"reg/app@{ID}", "where": own},
        {"image": "init:v1", "where": own},
        {"image": "app:v2", "image_id": "", "where": own},
        {"image": "old:v1", "where": "shop/replicaset/replicaset", "state": "previous"},
        {"image": "app:v1", "where": "shop/deployment/deployment", "state": "running"},
        {"image": "cron:v1", "where": "cronjob/nightly", "state": "running"},
    ]


def test_a_list_has_one_reference_on_each_line() -> None:
    assert images_in(f"# all\nreg/app:v1\n\n{ID}\nreg/app:v1\n", "auto") == [
        {"image": "reg/app:v1"},
        {"image": ID},
    ]


@pytest.mark.parametrize("text", ["{", '{"items": 1}', '{"items": ["x"]}'])
def test_half_an_input_is_no_report(text: str) -> None:
    with pytest.raises(Failure):
        images_in(text, "auto")


def test_what_is_reported_stays_until_its_source_is_forgotten(
    ullage: Ullage, client: httpx.Client, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def report(text: str) -> Done:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        return ullage("guard", "report", "--source", source)

    # An image of its own: a digest counts in every repository.
    digest = push_image(client, name, "v1", (name.encode(),))
    source = name.replace("/", ".")
    pods = json.dumps({"items": [pod(f"reg/{name}:v1", f"reg/{name}@{digest}")]})
    done = report(pods)
    assert answer(done)["added"] == 1
    assert "1 image: 1 new, 0 left." in done.err
    assert source in [each["source"] for each in answer(ullage("guard", "list"))]
    assert source in ullage("guard", "list", "-o", "table").out
    (image,) = answer(ullage("guard", "show", source))
    assert (image["digest"], image["reference"]) == (digest, f"reg/{name}:v1")
    assert f"reg/{name}:v1" in ullage("guard", "show", source, "-o", "table").out
    words = f"deployed in {source}: shop/replicaset/app-5d9c"
    assert [each["deployed"] for each in answer(ullage("guard", "status", f"{name}:v1"))] == [words]
    assert ullage("repository", "delete", "--image", f"{name}:v1", "--yes").code == 1
    done = ullage("purge", "--filter", f"{name}:.*", "--ago", "0d", "--untagged")
    assert (done.code, f"{name}:v1 stays: {words}" in done.err) == (0, True), done
    assert report('{"items": []}').code == 1
    assert report("{").code == 1
    assert ullage("guard", "forget", source).code == 1
    assert answer(ullage("guard", "forget", source, "--yes"))["images"] == 1
    assert ullage("guard", "show", source).code == 3
    assert answer(ullage("guard", "status", f"{name}:v1")) == []
    assert ullage("repository", "delete", "--image", f"{name}:v1", "--yes").code == 0
