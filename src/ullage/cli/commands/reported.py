"""What runs in a cluster, from what `kubectl get … -o json` prints or from a list of references.

Of pods each container's image and imageID count, of init and ephemeral containers too, and of those
that have ended; of what makes pods, the images of its template.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ullage.cli.shell.errors import Failure

_STATUSES = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")


def images_in(text: str, form: str) -> list[dict[str, str]]:
    """The images of a report, each once for each place; `form` is auto, pods or list.

    Raises Failure for what is not understood: half a report would end protection.
    """
    if form == "pods" or (form == "auto" and text.lstrip().startswith("{")):
        found = list(_of_objects(text))
    else:
        lines = (line.strip() for line in text.splitlines())
        found = [{"image": line} for line in lines if line and not line.startswith("#")]
    return list({tuple(sorted(each.items())): each for each in found}.values())


def _of_objects(text: str) -> Iterator[dict[str, str]]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise Failure(f"The input is no JSON: {error}. Nothing was reported.") from error
    items = document.get("items", [document]) if isinstance(document, dict) else None
    if not isinstance(items, list) or not all(isinstance(each, dict) for each in items):
        raise Failure("The input is no list of Kubernetes objects. Nothing was reported.")
    for each in items:
        yield from _of_object(each)


def _of_object(item: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    spec, kind = _mapping(item.get("spec")), str(item.get("kind", ""))
    where = _place(item, kind)
    if kind == "Pod" or "containers" in spec:
        yield from _of_pod(spec, _mapping(item.get("status")), where)
        return
    # A cron job's pods come from the template of its job's.
    job = _mapping(_mapping(spec.get("jobTemplate")).get("spec"))
    template = _mapping(_mapping((job or spec).get("template")).get("spec"))
    # A replica set of 0 is what a rollback starts.
    state = "previous" if spec.get("replicas") == 0 else "running"
    for image in _images(template).values():
        yield {"image": image, "where": where, "state": state}


def _of_pod(
    spec: Mapping[str, Any], status: Mapping[str, Any], where: str
) -> Iterator[dict[str, str]]:
    images = _images(spec)
    for each in _listed(status, _STATUSES):
        name, pulled = str(each.get("name", "")), str(each.get("imageID") or "")
        # The specification's is what its author wrote: a tag, or an index's digest.
        image = images.pop(name, "") or str(each.get("image") or "")
        if image or pulled:
            yield {"image": image, "image_id": pulled, "where": where}
    for image in images.values():
        yield {"image": image, "where": where}


def _images(spec: Mapping[str, Any]) -> dict[str, str]:
    """The images of a pod's specification by their containers' names."""
    return {
        str(each.get("name", "")): str(each["image"])
        for each in _listed(spec, _CONTAINERS)
        if each.get("image")
    }


def _listed(of: Mapping[str, Any], names: tuple[str, ...]) -> list[Mapping[str, Any]]:
    return [_mapping(each) for name in names for each in of.get(name) or []]


def _place(item: Mapping[str, Any], kind: str) -> str:
    """`namespace/kind/name`; of a pod, what it belongs to."""
    about = _mapping(item.get("metadata"))
    owner = next(map(_mapping, about.get("ownerReferences") or []), about)
    kind, name = str(owner.get("kind") or kind), str(owner.get("name", ""))
    return "/".join(filter(None, (str(about.get("namespace", "")), kind.lower(), name)))[:200]


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
