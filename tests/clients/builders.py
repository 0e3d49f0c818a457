"""The suite of podman and buildah, one contract for both: each subclasses it with its own tool."""

from collections.abc import Iterator

import pytest

from tests.clients.containers import Builder
from tests.clients.programs import make_immutable, write_app_context, write_base_context
from tests.clients.view import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, View
from tests.support.server import UllageServer


class BuilderContract:
    """Subclasses name the tool. It builds once; what it pulls goes to another, empty store."""

    tool: type[Builder]

    @pytest.fixture(scope="class")
    @classmethod
    def built(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
        """A store with the images v1, v2 and other: one base layer, and one of each its own."""
        contexts = tmp_path_factory.mktemp("contexts")
        with cls.tool() as builder:
            builder.build(write_base_context(contexts / "base"), "base")
            for name in ("v1", "v2", "other"):
                message = f"this is {name}"
                context = write_app_context(contexts / name, "localhost/base", message)
                builder.build(context, name)
            yield builder

    @pytest.fixture
    def elsewhere(self) -> Iterator[Builder]:
        """A store with nothing in it, as on another machine."""
        with self.tool() as builder:
            yield builder

    def test_a_replaced_image_is_deleted_by_digest_and_gives_back_its_own_layer(
        self, built: Builder, elsewhere: Builder, registry: UllageServer, view: View
    ) -> None:
        """docs/design/deletion.md sections 1 and 2."""
        host = registry.host
        v1 = built.push("v1", f"{host}/app:latest")
        v2 = built.push("v2", f"{host}/app:latest")
        # The base is mounted from app, the rest is uploaded; and once more, when all is there.
        other = built.push("other", f"{host}/team/other:latest")
        assert built.push("other", f"{host}/team/other:latest") == other
        assert view.media_type("app:latest") == OCI_MANIFEST
        assert (view.digest("app:latest"), view.digest("team/other:latest")) == (v2, other)
        view.assert_disk_holds(f"app@{v1}", f"app@{v2}", f"team/other@{other}")

        assert elsewhere.pull_and_run(f"{host}/app@{v1}") == "this is v1"

        gone = view.assert_deletion_frees(f"app@{v1}", kept=("app:latest", "team/other:latest"))
        assert len(gone) == 2, "its config and its layer; the base stays"
        assert not elsewhere.can_pull(f"{host}/app@{v1}")
        assert elsewhere.pull_and_run(f"{host}/app:latest") == "this is v2"

        view.assert_deletion_frees(f"app@{v2}", kept=("team/other:latest",))
        assert elsewhere.pull_and_run(f"{host}/team/other:latest") == "this is other"
        view.assert_deletion_frees(f"team/other@{other}", kept=())

    def test_an_image_in_docker_format_shares_its_layers_with_the_oci_one(
        self, built: Builder, elsewhere: Builder, registry: UllageServer, view: View
    ) -> None:
        """One blob, named by manifests of two formats."""
        oci = built.push("v1", f"{registry.host}/app:oci")
        docker = built.push("v1", f"{registry.host}/app:docker", "--format", "v2s2")
        assert view.media_type("app:docker") == DOCKER_MANIFEST
        view.assert_disk_holds("app:oci", "app:docker")
        layers = [
            [d["digest"] for d in view.manifest(f"app:{tag}")["layers"]] for tag in view.tags("app")
        ]
        assert layers[0] == layers[1]
        view.assert_deletion_frees(f"app@{oci}", kept=("app:docker",))
        assert elsewhere.pull_and_run(f"{registry.host}/app:docker") == "this is v1"
        view.assert_deletion_frees(f"app@{docker}", kept=())

    def test_a_manifest_list_takes_its_images_along(
        self, built: Builder, elsewhere: Builder, registry: UllageServer, view: View
    ) -> None:
        """docs/design/deletion.md section 2: children go that nothing else holds."""
        host = registry.host
        built.make_list("all", "v1", "v2")
        tagged = built.push("v1", f"{host}/app:v1")
        for repository in ("app", "team/lists"):
            built.push_list("all", f"{host}/{repository}:all")
        assert view.media_type("app:all") in (OCI_INDEX, DOCKER_LIST)
        index = view.digest("app:all")
        first, second = (child["digest"] for child in view.manifest("app:all")["manifests"])
        assert first == tagged
        view.assert_disk_holds("app:all", "team/lists:all")

        kept = ("app:v1", "team/lists:all")
        assert not view.assert_deletion_frees(f"app@{index}", kept=kept)
        assert not view.has_manifest(f"app@{second}")
        gone = view.assert_deletion_frees(f"team/lists@{index}", kept=("app:v1",))
        assert len(gone) == 2, "config and layer of the second image"
        assert view.repositories() == ["app"]
        assert elsewhere.pull_and_run(f"{host}/app:v1") == "this is v1"

    def test_a_refusal_by_a_rule_is_told_in_its_words(
        self, built: Builder, registry: UllageServer, view: View
    ) -> None:
        """docs/guides/immutable.md: the client says which rule keeps the tag where it is."""
        image = f"{registry.host}/app:v1"
        make_immutable(registry, "app:v*")
        digest = built.push("v1", image)
        assert built.push("v1", image) == digest
        refused = built.attempt("push", "--tls-verify=false", "v2", f"docker://{image}")
        assert refused.returncode != 0
        assert "tag 'v1' is immutable by the rule 'app:v*'" in refused.stderr
        assert view.digest("app:v1") == digest
