"""What a manifest is taken for, and what it refers to: OCI image-spec 1.1, Docker schema 2."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ullage.oci.digest import Digest, digest_of
from ullage.oci.errors import ManifestInvalid
from ullage.oci.manifest.descriptor import Descriptor
from ullage.oci.manifest.limits import ManifestLimits
from ullage.oci.manifest.media_type import (
    DOCKER_IMAGE,
    DOCKER_LIST,
    OCI_ARTIFACT,
    OCI_IMAGE,
    OCI_INDEX,
)
from ullage.oci.manifest.parsing import Manifest, parse_manifest

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
UNKNOWN = "application/vnd.example.thing.v1+json"
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+json"
SCHEMA_1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"

IMAGES = [OCI_IMAGE, DOCKER_IMAGE]
INDEXES = [OCI_INDEX, DOCKER_LIST]
KNOWN = [*IMAGES, *INDEXES, OCI_ARTIFACT]
WITH_SUBJECT = [OCI_IMAGE, OCI_INDEX, OCI_ARTIFACT]

FOREIGN_LAYERS = [
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
]


def digest(name: str) -> Digest:
    return digest_of(name.encode())


def descriptor(name: str, media_type: str = LAYER_TYPE, **other: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(name), "size": len(name), **other}


def image(media_type: str | None = OCI_IMAGE, **other: Any) -> dict[str, Any]:
    body = {
        "schemaVersion": 2,
        "config": descriptor("config", CONFIG_TYPE),
        "layers": [descriptor("layer-1"), descriptor("layer-2")],
        **other,
    }
    return body if media_type is None else {"mediaType": media_type, **body}


def index(media_type: str | None = OCI_INDEX, **other: Any) -> dict[str, Any]:
    children = [descriptor("amd64", OCI_IMAGE), descriptor("arm64", OCI_IMAGE)]
    body = {"schemaVersion": 2, "manifests": children, **other}
    return body if media_type is None else {"mediaType": media_type, **body}


def artifact(**other: Any) -> dict[str, Any]:
    return {"mediaType": OCI_ARTIFACT, "blobs": [descriptor("blob")], **other}


def unknown(**other: Any) -> dict[str, Any]:
    return {"mediaType": UNKNOWN, **other}


def of_type(media_type: str, **other: Any) -> dict[str, Any]:
    if media_type in IMAGES:
        return image(media_type, **other)
    if media_type in INDEXES:
        return index(media_type, **other)
    return artifact(**other)


def without(body: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in names}


def parse(body: object, media_type: str | None = None, **limits: int) -> Manifest:
    return parse_manifest(json.dumps(body).encode(), media_type, ManifestLimits(**limits))


def accept(body: object, media_type: str | None = None, **limits: int) -> None:
    assert isinstance(parse(body, media_type, **limits), Manifest)


def refuse(body: object, media_type: str | None = None, *, match: str, **limits: int) -> None:
    with pytest.raises(ManifestInvalid, match=match):
        parse(body, media_type, **limits)


def names(descriptors: Iterable[Descriptor]) -> list[Digest]:
    return [one.digest for one in descriptors]


# --- what each type names -------------------------------------------------------------------------


@pytest.mark.parametrize("media_type", IMAGES)
def test_an_image_needs_its_config_and_its_layers(media_type: str) -> None:
    """manifest.md: config and layers."""
    manifest = parse(image(media_type), media_type)
    assert manifest.media_type == media_type
    assert names(manifest.required_blobs) == [
        digest("config"),
        digest("layer-1"),
        digest("layer-2"),
    ]
    assert manifest.config == Descriptor(CONFIG_TYPE, digest("config"), 6)
    assert names(manifest.layers) == [digest("layer-1"), digest("layer-2")]
    assert not manifest.optional_blobs
    assert not manifest.required_children
    assert not manifest.optional_children
    assert manifest.subject is None


@pytest.mark.parametrize("media_type", INDEXES)
def test_an_index_needs_its_manifests(media_type: str) -> None:
    """image-index.md: manifests."""
    manifest = parse(index(media_type), media_type)
    assert manifest.media_type == media_type
    assert names(manifest.required_children) == [digest("amd64"), digest("arm64")]
    assert names(manifest.manifests) == [digest("amd64"), digest("arm64")]
    assert not manifest.required_blobs
    assert not manifest.optional_blobs
    assert not manifest.optional_children
    assert manifest.config is None


def test_an_artifact_needs_its_blobs_and_has_no_schema_version() -> None:
    """image-spec 1.1.0-rc2, artifact.md: blobs."""
    manifest = parse(artifact(artifactType="application/vnd.example"), OCI_ARTIFACT)
    assert names(manifest.required_blobs) == [digest("blob")]
    assert manifest.artifact_type == "application/vnd.example"
    assert parse(without(artifact(), "blobs"), OCI_ARTIFACT).required_blobs == ()
    assert parse(artifact(blobs=None), OCI_ARTIFACT).required_blobs == ()


@pytest.mark.parametrize("media_type", WITH_SUBJECT)
def test_a_subject_is_kept(media_type: str) -> None:
    body = of_type(media_type, subject=descriptor("subject", OCI_IMAGE))
    subject = parse(body, media_type).subject
    assert subject == Descriptor(OCI_IMAGE, digest("subject"), 7)
    assert parse(of_type(media_type, subject=None), media_type).subject is None
    refuse(of_type(media_type, subject={}), match=r"^subject\.mediaType: missing")


@pytest.mark.parametrize("media_type", [DOCKER_IMAGE, DOCKER_LIST])
def test_the_docker_types_have_no_subject(media_type: str) -> None:
    body = of_type(media_type, subject=descriptor("subject", OCI_IMAGE))
    assert parse(body, media_type).subject is None


def test_a_subject_is_not_required() -> None:
    """manifest.md, subject: "MAY be a manifest that does not exist"; a soft reference (R15)."""
    manifest = parse(image(subject=descriptor("subject", OCI_IMAGE)))
    needed = (
        *manifest.required_blobs,
        *manifest.optional_blobs,
        *manifest.required_children,
        *manifest.optional_children,
    )
    assert digest("subject") not in names(needed)


@pytest.mark.parametrize("media_type", [*FOREIGN_LAYERS, FOREIGN_LAYERS[0].upper()])
def test_a_layer_that_is_fetched_from_elsewhere_need_not_be_here(media_type: str) -> None:
    """layer.md, "Non-Distributable Layers"; Docker schema 2, foreign layers."""
    elsewhere = descriptor("windows", media_type, urls=["https://example.com/windows"])
    manifest = parse(image(layers=[elsewhere, descriptor("layer-1")]))
    assert names(manifest.required_blobs) == [digest("config"), digest("layer-1")]
    assert names(manifest.optional_blobs) == [digest("windows")]
    assert manifest.layers[0].urls == ("https://example.com/windows",)


def test_urls_do_not_make_an_ordinary_layer_optional() -> None:
    manifest = parse(image(layers=[descriptor("layer-1", urls=["https://example.com"])]))
    assert digest("layer-1") in names(manifest.required_blobs)
    assert not manifest.optional_blobs


def test_each_digest_is_listed_once_and_in_order() -> None:
    foreign = descriptor("c", FOREIGN_LAYERS[0])
    layers = [descriptor("b"), descriptor("a"), descriptor("b"), foreign, foreign]
    manifest = parse(image(layers=layers))
    assert names(manifest.required_blobs) == [digest("config"), digest("b"), digest("a")]
    assert names(manifest.optional_blobs) == [digest("c")]
    assert len(manifest.layers) == 5
    children = [descriptor("b", OCI_IMAGE), descriptor("a", OCI_IMAGE), descriptor("b", OCI_IMAGE)]
    assert names(parse(index(manifests=children)).required_children) == [digest("b"), digest("a")]


@pytest.mark.parametrize("foreign_first", [True, False])
def test_a_digest_that_is_needed_anywhere_is_required(foreign_first: bool) -> None:
    layers = [descriptor("a", FOREIGN_LAYERS[0]), descriptor("a")]
    manifest = parse(image(layers=layers if foreign_first else layers[::-1]))
    assert digest("a") in names(manifest.required_blobs)
    assert not manifest.optional_blobs


def test_the_config_may_also_be_a_layer() -> None:
    """manifest.md, "Guidance for an Empty Descriptor": config and layer are both `{}`."""
    empty = descriptor("{}", "application/vnd.oci.empty.v1+json", data="e30=")
    manifest = parse(image(config=empty, layers=[empty]))
    assert names(manifest.required_blobs) == [digest("{}")]


def test_an_image_without_layers_and_an_index_without_manifests_are_fine() -> None:
    assert names(parse(image(layers=[])).required_blobs) == [digest("config")]
    assert parse(index(manifests=[])).required_children == ()


@pytest.mark.parametrize("media_type", [*IMAGES, *INDEXES, None])
def test_an_array_that_is_null_is_an_empty_one(media_type: str | None) -> None:
    """Go writes an array that nothing was put into as null (`regctl image create`)."""
    if media_type not in INDEXES:
        manifest = parse(image(media_type, layers=None))
        assert (manifest.layers, names(manifest.required_blobs)) == ((), [digest("config")])
    if media_type not in IMAGES:
        assert parse(index(media_type, manifests=None)).manifests == ()


@pytest.mark.parametrize("media_type", IMAGES)
def test_what_is_no_array_may_not_be_null(media_type: str) -> None:
    refuse(image(media_type, config=None), match="^config: missing or null")


def test_an_index_of_layers_refers_to_them_as_blobs() -> None:
    """BuildKit's registry cache is an index of layers and of a configuration of its own."""
    cached = [
        descriptor("layer", LAYER_TYPE),
        descriptor("cache", "application/vnd.buildkit.cacheconfig.v0"),
        descriptor("amd64", OCI_IMAGE),
    ]
    manifest = parse(index(manifests=cached))
    assert names(manifest.required_blobs) == [digest("layer"), digest("cache")]
    assert names(manifest.required_children) == [digest("amd64")]
    assert names(manifest.manifests) == [digest("layer"), digest("cache"), digest("amd64")]


def test_one_digest_cannot_have_two_sizes() -> None:
    other_size = {**descriptor("config"), "size": 1}
    refuse(image(layers=[other_size]), match="one size for one digest")
    refuse(image(subject={**other_size, "mediaType": OCI_IMAGE}), match="one size for one digest")
    children = [descriptor("amd64", OCI_IMAGE), {**descriptor("amd64", OCI_IMAGE), "size": 1}]
    refuse(index(manifests=children), match="one size for one digest")


# --- what the referrers API shows -----------------------------------------------------------------


def test_the_artifact_type_is_the_stated_one_and_else_that_of_the_config() -> None:
    """distribution-spec, "Listing Referrers": an empty or missing one becomes the config's type."""
    assert parse(image(artifactType="application/vnd.sbom")).artifact_type == "application/vnd.sbom"
    for nothing in (None, ""):
        assert parse(image(artifactType=nothing)).artifact_type == CONFIG_TYPE
        assert parse(index(artifactType=nothing)).artifact_type is None
    assert parse(image()).artifact_type == CONFIG_TYPE
    assert parse(index(artifactType="application/vnd.sbom")).artifact_type == "application/vnd.sbom"
    assert parse(artifact()).artifact_type is None


def test_annotations_are_those_of_the_manifest() -> None:
    layer = descriptor("layer-1", annotations={"of": "layer"}, artifactType="application/a")
    manifest = parse(image(annotations={"org.example": "é", "": ""}, layers=[layer]))
    assert manifest.annotations == {"org.example": "é", "": ""}
    assert manifest.layers[0].annotations == {"of": "layer"}
    assert manifest.layers[0].artifact_type == "application/a"
    assert parse(image()).annotations == {}
    assert parse(image(annotations=None)).annotations == {}


# --- which type a document is (CVE-2021-41190) ----------------------------------------------------


@pytest.mark.parametrize("media_type", KNOWN)
@pytest.mark.parametrize(
    "content_type",
    ["{}", "{}; charset=utf-8", " {} ", "{};q=1;charset=utf-8", None, "", "  "],
)
def test_the_type_is_read_from_content_type_and_body(
    media_type: str, content_type: str | None
) -> None:
    sent_as = content_type.format(media_type) if content_type is not None else None
    assert parse(of_type(media_type), sent_as).media_type == media_type


@pytest.mark.parametrize("media_type", KNOWN)
def test_types_compare_without_regard_to_case_and_are_stored_as_registered(media_type: str) -> None:
    assert parse(of_type(media_type), media_type.upper()).media_type == media_type
    body = {**of_type(media_type), "mediaType": media_type.upper()}
    assert parse(body, media_type).media_type == media_type


@pytest.mark.parametrize("media_type", KNOWN)
@pytest.mark.parametrize("nothing", [{}, {"mediaType": None}])
def test_a_body_without_a_type_is_what_its_content_type_says(
    media_type: str, nothing: dict[str, None]
) -> None:
    body = {**without(of_type(media_type), "mediaType"), **nothing}
    assert parse(body, media_type).media_type == media_type


@pytest.mark.parametrize("media_type", KNOWN)
@pytest.mark.parametrize("sent_as", [*KNOWN, UNKNOWN, "application/json", "text/plain"])
def test_a_body_of_another_type_than_its_content_type_is_refused(
    media_type: str, sent_as: str
) -> None:
    if media_type != sent_as:
        refuse(of_type(media_type), sent_as, match="^mediaType: .* expected the Content-Type")


@pytest.mark.parametrize("media_type", [None, *KNOWN, UNKNOWN])
@pytest.mark.parametrize("sent_as", [None, *KNOWN, UNKNOWN, "application/json"])
@pytest.mark.parametrize(
    "both",
    [
        {"manifests": [], "config": {}},
        {"manifests": [], "layers": []},
        {"manifests": None, "layers": None},
        {"Manifests": [], "layers": []},
        {"manifests": [], "LAYERS": []},
        {"manifests": [], "layer\u017f": []},
        {**image(None), **index(None)},
    ],
)
@pytest.mark.thorough
def test_a_document_that_is_image_and_index_is_refused_as_every_type(
    media_type: str | None, sent_as: str | None, both: dict[str, Any]
) -> None:
    """CVE-2021-41190: the same bytes, and so the same digest, read as two different images."""
    body = {"schemaVersion": 2, **both}
    if media_type is not None:
        body["mediaType"] = media_type
    refuse(body, sent_as, match="either an index or an image")


@pytest.mark.parametrize("stated", [True, False])
def test_a_document_of_the_wrong_shape_is_refused(stated: bool) -> None:
    """CVE-2021-41190: without a type in the body, its shape and its Content-Type must agree."""

    def body(shape: dict[str, Any], media_type: str) -> dict[str, Any]:
        return {**shape, "mediaType": media_type} if stated else shape

    for media_type in IMAGES:
        refuse(body(index(None), media_type), media_type, match="^manifests: expected no such")
        refuse(body(image(None, fsLayers=[]), media_type), media_type, match="^fsLayers: ")
    for media_type in INDEXES:
        refuse(body(image(None), media_type), media_type, match="^config: expected no such")
        layers = {"schemaVersion": 2, "layers": []}
        refuse(body(layers, media_type), media_type, match="^layers: expected no such")
    for shape in (index(None), image(None)):
        refuse(body(shape, OCI_ARTIFACT), OCI_ARTIFACT, match="expected no such")


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("Layers", "layers"),
        ("CONFIG", "config"),
        ("MediaType", "mediaType"),
        ("mediatype", "mediaType"),
        ("Subject", "subject"),
        ("\u017fubject", "subject"),
        ("schemaversion", "schemaVersion"),
        ("fslayers", "fsLayers"),
    ],
)
def test_a_field_in_another_spelling_is_refused(key: str, meant: str) -> None:
    """Go's encoding/json takes `Layers` for `layers`, so a Go client would pull other layers."""
    refuse({**image(), key: None}, match=f"expected it spelled `{meant}`")


def test_a_descriptors_field_in_another_spelling_is_refused() -> None:
    layer = {**descriptor("layer-1"), "Digest": digest("other")}
    refuse(image(layers=[layer]), match=r"^layers\[0\]\.'Digest' - expected it spelled `digest`")


def test_without_any_type_the_shape_decides_if_it_can() -> None:
    assert parse(index(None)).media_type == OCI_INDEX
    assert parse(image(None)).media_type == OCI_IMAGE
    for name in ("config", "layers"):
        refuse(without(image(None), name), match="^mediaType: missing")
    refuse({}, match="^mediaType: missing")
    refuse({"schemaVersion": 2, "blobs": []}, match="^mediaType: missing")


@pytest.mark.parametrize("media_type", [SCHEMA_1, SCHEMA_1_SIGNED])
@pytest.mark.parametrize("stated", [True, False])
def test_docker_schema_1_is_refused_with_a_way_out(media_type: str, stated: bool) -> None:
    body: dict[str, Any] = {"schemaVersion": 1, "name": "app", "fsLayers": []}
    if stated:
        body["mediaType"] = media_type
    for sent_as in (media_type, media_type + "; charset=utf-8", media_type.upper(), None):
        refuse(body, sent_as, match="schema 1 is not supported - expected schema 2 or an OCI image")


@pytest.mark.parametrize("media_type", KNOWN)
def test_schema_version_1_is_docker_schema_1_whatever_the_types_say(media_type: str) -> None:
    body = {**of_type(media_type), "schemaVersion": 1}
    refuse(body, media_type, match="schema 1 is not supported")
    refuse(without(body, "mediaType"), media_type, match="schema 1 is not supported")
    refuse(without(body, "mediaType"), "application/json", match="schema 1 is not supported")


@pytest.mark.parametrize("media_type", [*IMAGES, *INDEXES])
@pytest.mark.parametrize("version", [None, 0, 3, "2", 2.0, True, [2], -2])
def test_any_other_schema_version_than_2_is_refused(media_type: str, version: object) -> None:
    refuse({**of_type(media_type), "schemaVersion": version}, match="^schemaVersion: .*expected 2")
    refuse(without(of_type(media_type), "schemaVersion"), match="^schemaVersion: missing")


@pytest.mark.parametrize("name", ["config", "layers"])
@pytest.mark.parametrize("media_type", IMAGES)
def test_an_image_without_config_or_layers_is_refused(media_type: str, name: str) -> None:
    refuse(without(image(media_type), name), media_type, match=f"^{name}: missing")


@pytest.mark.parametrize("media_type", INDEXES)
def test_an_index_without_manifests_is_refused(media_type: str) -> None:
    refuse(without(index(media_type), "manifests"), media_type, match="^manifests: missing")


@pytest.mark.parametrize("body", [[], "", 1, None, True, [image()]])
def test_a_manifest_is_an_object(body: object) -> None:
    refuse(body, OCI_IMAGE, match="^manifest: .* - expected an object")


@pytest.mark.parametrize(
    "stated", ["", 1, {}, True, "a\nb", "a b/c", "a;b=c", "é/x", "<b>", '"', "a" * 256]
)
def test_a_body_that_states_no_proper_type_is_refused(stated: object) -> None:
    refuse({**image(), "mediaType": stated}, OCI_IMAGE, match="^mediaType: ")


@pytest.mark.parametrize("sent_as", [";", "a b", "<script>", "a/b, c/d", "é", "a" * 256, "a\r\nb"])
def test_a_malformed_content_type_is_refused(sent_as: str) -> None:
    refuse(image(), sent_as, match="^Content-Type: .* - expected a media type")


# --- unknown types --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent_as",
    [
        None,
        UNKNOWN,
        UNKNOWN.upper(),
        UNKNOWN + ";a=b",
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "text/plain",
    ],
)
def test_an_unknown_type_is_stored_as_its_body_names_it(sent_as: str | None) -> None:
    assert parse(unknown(), sent_as).media_type == UNKNOWN
    mixed_case = "application/vnd.Example.Thing"
    assert parse({"mediaType": mixed_case}, mixed_case.lower()).media_type == mixed_case


def test_an_unknown_type_is_refused_if_its_body_does_not_name_it() -> None:
    refuse({}, UNKNOWN, match="^mediaType: missing - expected the body to name its type")
    refuse({}, "application/json", match="^mediaType: missing")
    refuse(image(None), UNKNOWN, match="^mediaType: missing")
    refuse(unknown(), "application/vnd.other+json", match="expected the Content-Type")


@pytest.mark.parametrize("media_type", ["text/html", "TEXT/HTML", "image/svg+xml", "html"])
def test_an_unknown_type_is_nothing_that_a_browser_displays(media_type: str) -> None:
    """S50: it is served as the Content-Type of what was pushed."""
    refuse({"mediaType": media_type}, match="below application/")
    refuse({"mediaType": media_type}, media_type, match="below application/")


def test_everything_in_an_unknown_type_that_is_a_descriptor_is_optional() -> None:
    body = unknown(
        config=descriptor("config"),
        layers=[descriptor("a"), descriptor("a"), descriptor("b")],
        blobs=[descriptor("c"), descriptor("a")],
        subject=descriptor("subject"),
        annotations={"a": "b"},
        artifactType="application/vnd.sbom",
    )
    manifest = parse(body)
    assert names(manifest.optional_blobs) == [digest(name) for name in ("config", "a", "b", "c")]
    assert manifest.subject is not None
    assert manifest.subject.digest == digest("subject")
    assert manifest.annotations == {"a": "b"}
    assert manifest.artifact_type == "application/vnd.sbom"
    assert not manifest.required_blobs
    listed = [descriptor("x", OCI_IMAGE), descriptor("y", UNKNOWN), descriptor("x", OCI_IMAGE)]
    children = parse(unknown(manifests=[*listed, descriptor("layer")]))
    assert names(children.optional_children) == [digest("x"), digest("y")]
    assert names(children.optional_blobs) == [digest("layer")]
    assert not children.required_children


def test_what_is_ill_formed_in_an_unknown_type_is_not_refused() -> None:
    body = unknown(
        schemaVersion=1,
        config="x",
        layers=[1, {}, {**descriptor("a"), "size": True}, None, descriptor("good")],
        blobs={"a": 1},
        subject=[descriptor("b")],
        annotations={"a": 1},
        artifactType=5,
        Blobs=3,
    )
    manifest = parse(body)
    assert names(manifest.optional_blobs) == [digest("good")]
    assert manifest.config is None
    assert manifest.subject is None
    assert manifest.annotations == {}
    assert manifest.artifact_type is None


# --- descriptors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"mediaType": None}, "mediaType: missing or null"),
        ({"mediaType": ""}, "mediaType: ''"),
        ({"mediaType": 1}, "mediaType: 1"),
        ({"mediaType": "a b"}, "mediaType: 'a b'"),
        ({"mediaType": "<b>"}, "mediaType: '<b>'"),
        ({"mediaType": "a\n"}, r"mediaType: 'a\\n'"),
        ({"mediaType": "a/b;"}, "mediaType: 'a/b;'"),
        ({"mediaType": "a" * 256}, "mediaType: 'aaa"),
        ({"digest": None}, "digest: missing or null"),
        ({"digest": 5}, "digest: 5"),
        ({"digest": "sha256:abc"}, "digest: digest 'sha256:abc'"),
        ({"digest": "sha256:" + "A" * 64}, "digest: "),
        ({"digest": "md5:" + "a" * 32}, "digest: digest algorithm 'md5'"),
        ({"size": None}, "size: missing or null"),
        ({"size": -1}, "size: -1"),
        ({"size": 2**53 + 1}, "size: 9007199254740993"),
        ({"size": True}, "size: true"),
        ({"size": 7.0}, "size: 7.0"),
        ({"size": "7"}, "size: '7'"),
        ({"size": []}, "size: an array"),
        ({"urls": "https://example.com"}, "urls: 'https"),
        ({"urls": ["a", 1]}, r"urls\[1\]: 1"),
        ({"annotations": []}, "annotations: an array"),
        ({"annotations": {"a": 1}}, "annotations.'a': 1"),
        ({"annotations": {"a": None}}, "annotations.'a': missing or null"),
        ({"artifactType": 1}, "artifactType: 1"),
        ({"artifactType": "a b"}, "artifactType: 'a b'"),
    ],
)
def test_a_malformed_descriptor_is_refused_and_the_message_says_where(
    change: dict[str, object], where: str
) -> None:
    """descriptor.md, "Properties"."""
    bad = {**descriptor("layer-2"), **change}
    refuse(image(layers=[descriptor("layer-1"), bad]), match=rf"^layers\[1\]\.{where}.*expected")
    refuse(image(config=bad), match=rf"^config\.{where}.*expected")
    refuse(index(manifests=[bad]), match=rf"^manifests\[0\]\.{where}.*expected")
    refuse(artifact(blobs=[bad]), match=rf"^blobs\[0\]\.{where}.*expected")
    refuse(image(subject=bad), match=rf"^subject\.{where}.*expected")


@pytest.mark.parametrize("bad", [None, 1, "x", [], [descriptor("a")]])
def test_a_descriptor_is_an_object(bad: object) -> None:
    refuse(image(layers=[bad]), match=r"^layers\[0\]: .* - expected an object")
    refuse(image(config=bad or 0), match=r"^config: .* - expected an object")


@pytest.mark.parametrize("bad", [0, "x", {}, True, descriptor("a")])
def test_layers_and_manifests_are_arrays(bad: object) -> None:
    refuse(image(layers=bad), match=r"^layers: .* - expected an array of descriptors")
    refuse(index(manifests=bad), match=r"^manifests: .* - expected an array of descriptors")
    refuse(artifact(blobs=bad), match=r"^blobs: .* - expected an array of descriptors")


@pytest.mark.parametrize("size", [0, 1, 2**53])
def test_sizes_go_from_0_to_2_to_the_53rd(size: int) -> None:
    assert parse(image(layers=[{**descriptor("a"), "size": size}])).layers[0].size == size


@pytest.mark.parametrize(
    "media_type",
    [
        "a",
        "application/x" + "a" * 242,
        "Application/VND.Foo!#$&-^_.+z",
        "application/vnd.dev.sigstore.bundle+json;version=0.2",
        "a/b; c=d;e=f",
    ],
)
def test_media_types_in_use_are_read(media_type: str) -> None:
    """RFC 6838, section 4.2; parameters as in Sigstore's bundles."""
    manifest = parse(image(layers=[descriptor("a", media_type)], artifactType=media_type))
    assert manifest.layers[0].media_type == media_type
    assert manifest.artifact_type == media_type


@pytest.mark.parametrize("data", ["e30=", "not base64", 5, None])
def test_embedded_data_is_ignored(data: object) -> None:
    """S31: nothing that was not uploaded under its digest is ever served as it."""
    plain = parse(image(layers=[descriptor("a")]))
    assert parse(image(layers=[descriptor("a", data=data)])) == plain


def test_what_is_not_ours_to_read_is_let_through() -> None:
    platform = {"architecture": "amd64", "os": "linux", "Variant": 5}
    body = index(manifests=[descriptor("a", OCI_IMAGE, platform=platform, other=[1])], other={})
    assert names(parse(body).required_children) == [digest("a")]


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["layers", "blobs", "manifests"])
def test_the_number_of_descriptors_is_limited(where: str) -> None:
    """S31. Counted before they are read, well formed or not, in unknown types too."""
    for one in (descriptor("a"), {}, 5):
        refuse(
            unknown(**{where: [one] * 4}),
            match="4 layers or children - expected",
            max_descriptors=3,
        )
        accept(unknown(**{where: [one] * 3}), max_descriptors=3)


def test_config_and_subject_are_not_counted() -> None:
    accept(image(subject=descriptor("subject")), max_descriptors=2)
    refuse(image(), match="2 layers or children - expected at most 1", max_descriptors=1)


def test_the_refusal_names_the_setting() -> None:
    refuse(image(), match="setting --max-descriptors allows more$", max_descriptors=1)


def test_an_image_may_have_as_many_layers_as_fit_into_its_bytes() -> None:
    """4 MiB bound it before the number does; others take thousands."""
    layers = [descriptor(str(number)) for number in range(16_384)]
    assert len(parse(image(layers=layers)).required_blobs) == 16_385
    more = [*layers, descriptor("one more")]
    refuse(image(layers=more), match="16385 layers or children - expected at most 16384")


@pytest.mark.parametrize("body", [image, unknown])
def test_annotations_are_limited_in_number_and_bytes_together(body: Any) -> None:
    layer = descriptor("layer-1", annotations={"c": "é", "d": "4"})
    full = body(annotations={"a": "1", "b": "2"}, layers=[layer])
    accept(full, max_annotations=4, max_annotation_bytes=9)
    refuse(full, match="4 annotations - expected at most 3", max_annotations=3)
    refuse(full, match="9 bytes of annotations - expected at most 8", max_annotation_bytes=8)


def test_depth_is_limited() -> None:
    refuse(image(other=[[[]]]), match="nested too deep", max_depth=3)
    accept(image(other=[[[]]]), max_depth=4)
    with pytest.raises(ManifestInvalid, match="nested too deep"):
        parse_manifest(b'{"a":' * 100_000, OCI_IMAGE)


# --- any bytes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'{"mediaType":"a","mediaType":"b"}',
        b'{"schemaVersion":NaN}',
        b'{"a":"\\u0000"}',
        json.dumps(image()).encode("utf-16"),
    ],
)
def test_what_is_not_strict_json_is_refused(raw: bytes) -> None:
    """S31: UTF-8 only, no duplicate keys, no NaN."""
    with pytest.raises(ManifestInvalid, match=r"^manifest: "):
        parse_manifest(raw, OCI_IMAGE)


def check_any(raw: bytes, media_type: str | None) -> None:
    """Either a manifest whose lists agree with each other, or an error with a plain message."""
    try:
        manifest = parse_manifest(raw, media_type, ManifestLimits(max_descriptors=5))
    except ManifestInvalid as error:
        message = error.message
    else:
        check_lists(manifest)
        return
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 2000


def check_lists(manifest: Manifest) -> None:
    required, optional = names(manifest.required_blobs), names(manifest.optional_blobs)
    assert len({*required, *optional}) == len(required) + len(optional)
    blobs = {
        *names(manifest.layers),
        *names(manifest.blobs),
        *([manifest.config.digest] if manifest.config else []),
    }
    children = names(manifest.required_children) + names(manifest.optional_children)
    assert len(set(children)) == len(children)
    listed = set(names(manifest.manifests))
    # Of what an index lists, layers are blobs and the rest are children; nothing is let go.
    assert blobs <= {*required, *optional} <= blobs | listed
    assert set(children) <= listed
    assert {*required, *optional, *children} == blobs | listed
    assert not (children and (manifest.config or manifest.layers))


ANY_TYPE = st.sampled_from([*KNOWN, UNKNOWN, SCHEMA_1, "application/json", "text/html", ""])
ANY_CONTENT_TYPE = st.none() | ANY_TYPE | st.text(max_size=20)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**54), 2**54)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=10)
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("aDs", max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
GOOD_DESCRIPTORS = st.builds(
    descriptor,
    st.sampled_from("abc"),
    st.sampled_from([LAYER_TYPE, OCI_IMAGE, *FOREIGN_LAYERS]),
)
DESCRIPTORS = st.one_of(
    GOOD_DESCRIPTORS,
    GOOD_DESCRIPTORS,
    st.fixed_dictionaries(
        {},
        optional={
            "mediaType": st.just(LAYER_TYPE) | ANYTHING,
            "digest": st.just(digest("a")) | ANYTHING,
            "size": st.just(1) | ANYTHING,
            "urls": st.lists(st.text(max_size=3), max_size=2) | ANYTHING,
            "annotations": st.dictionaries(st.text("ab"), st.text("ab")) | ANYTHING,
            "artifactType": ANYTHING,
            "Size": ANYTHING,
            "data": ANYTHING,
        },
    ),
    ANYTHING,
)
LISTS = st.lists(DESCRIPTORS, max_size=6) | ANYTHING
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "schemaVersion": st.sampled_from([2, 2, 2, 1]) | ANYTHING,
        "mediaType": ANY_TYPE | ANYTHING,
        "config": DESCRIPTORS,
        "layers": LISTS,
        "blobs": LISTS,
        "manifests": LISTS,
        "subject": DESCRIPTORS,
        "annotations": ANYTHING,
        "artifactType": ANY_TYPE | ANYTHING,
        "fsLayers": ANYTHING,
        "Layers": LISTS,
    },
)


@settings(max_examples=500)
@given(BODIES, ANY_CONTENT_TYPE)
@example(image(), OCI_IMAGE)
@example(index(), OCI_INDEX)
@example(artifact(), OCI_ARTIFACT)
@pytest.mark.thorough
def test_no_document_raises_anything_but_manifest_invalid(
    body: dict[str, Any], media_type: str | None
) -> None:
    check_any(json.dumps(body).encode(), media_type)


@settings(max_examples=500)
@given(st.sampled_from(KNOWN), st.data())
@pytest.mark.thorough
def test_no_single_change_to_a_good_manifest_raises_anything_else(
    media_type: str, data: st.DataObject
) -> None:
    body = of_type(media_type)
    key = data.draw(st.sampled_from([*body, "subject", "annotations", "Layers", "other"]))
    body[key] = data.draw(DESCRIPTORS | LISTS)
    check_any(json.dumps(body).encode(), data.draw(st.sampled_from([media_type, None])))


@given(st.binary(), ANY_CONTENT_TYPE)
def test_no_bytes_raise_anything_but_manifest_invalid(raw: bytes, media_type: str | None) -> None:
    check_any(raw, media_type)


@given(st.sampled_from(KNOWN), st.integers(0, 1000), st.binary(max_size=3))
def test_no_damage_to_a_good_manifest_raises_anything_else(
    media_type: str, position: int, damage: bytes
) -> None:
    raw = json.dumps(of_type(media_type)).encode()
    position %= len(raw)
    check_any(raw[:position] + damage + raw[position + len(damage) :], media_type)
    check_any(raw[:position], media_type)
