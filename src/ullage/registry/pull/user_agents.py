"""What pulls: a node that runs images, a build, a scanner, … told apart by their User-Agent.

Pure: patterns in, classes out. What a class means for rules is decided by the policy: a scanner
looks at everything every night, and so says nothing about what is needed (harbor#15810, #20084).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Annotated

from ullage.documents import UNSET, Document, Meta, RequestBody, Text, UnsetType, member, read
from ullage.oci.errors import ValueInvalid, shown

# What was pulled within this time is not deleted by a list that no person has read.
RECENTLY = timedelta(days=7)
MAX_PATTERNS = 100


class Puller(StrEnum):
    """What kind of client pulled."""

    # Runs what it pulls.
    NODE = "node"
    # Builds and tests.
    CI = "ci"
    # A person at a terminal.
    HUMAN = "human"
    # Looks for vulnerabilities.
    SCANNER = "scanner"
    # Copies to another registry.
    REPLICATION = "replication"
    # Lists and cleans registries, reading manifests as it goes: az, acr, Azure's SDKs, ourselves.
    TOOL = "tool"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Pattern:
    """An expression for a part of a User-Agent, and the class of client that it names."""

    agent: str
    puller: Puller


@dataclass(frozen=True, slots=True)
class Pullers:
    """A policy: its patterns, which come before the usual ones, and classes that do not count."""

    patterns: tuple[Pattern, ...] = ()
    ignored: frozenset[Puller] = frozenset({Puller.SCANNER, Puller.REPLICATION, Puller.TOOL})

    @property
    def counted(self) -> tuple[Puller, ...]:
        """The classes whose pulls keep an image."""
        return tuple(puller for puller in Puller if puller not in self.ignored)


# The first that matches. Scanners and mirrors are built on the libraries that pullers use, and say
# both names; so they come first.
USUAL = (
    Pattern(
        r"(?i)\b(trivy|grype|syft|clair|anchore|snyk|twistlock|prisma|aquasec|qualys|wiz|sysdig"
        r"|neuvector|stackrox|xray|dependency-track|docker-scout)",
        Puller.SCANNER,
    ),
    Pattern(
        r"(?i)\b(harbor|regsync|zot\b|spegel|dragonfly|kraken|image-syncer)", Puller.REPLICATION
    ),
    Pattern(
        r"(?i)^(ullage|azurecli|azsdk-|python-requests|python/|go/go\S* .*autorest)", Puller.TOOL
    ),
    Pattern(
        r"(?i)\b(kaniko|buildkit|buildah|gitlab-runner|github-actions|jenkins|tekton|drone"
        r"|circleci|argo|flux|ko/|jib/)",
        Puller.CI,
    ),
    Pattern(r"(?i)^(containerd|cri-o|docker/|kubelet|nerdctl|balena|podman-kube)", Puller.NODE),
    Pattern(
        r"(?i)^(libpod|podman|containers/|skopeo|oras|crane|regctl|regclient|go-containerregistry"
        r"|docker-client|curl|wget|mozilla)",
        Puller.HUMAN,
    ),
)


# --- as JSON --------------------------------------------------------------------------------------

# A word that is not in the list is refused in words of our own.
PullerName = Annotated[str, Meta(extra_json_schema={"enum": [str(each) for each in Puller]})]


class PatternDocument(RequestBody, frozen=True):
    """An expression (RE2) that some part of a User-Agent matches, and the class it stands for."""

    agent: Text
    puller: PullerName = member(name="class")


class PullersRequest(RequestBody, frozen=True):
    """Classes of pullers. What is left out is as usual."""

    patterns: Annotated[tuple[PatternDocument, ...], Meta(max_length=MAX_PATTERNS)] = ()
    # Classes whose pulls keep nothing.
    ignored: tuple[PullerName, ...] | UnsetType = UNSET


class PullersDocument(Document, frozen=True):
    """The classes of pullers in force, with the usual patterns that come behind the own ones."""

    patterns: list[PatternDocument]
    ignored: list[PullerName]
    usual: list[PatternDocument] | UnsetType = UNSET


def parse_pullers(document: object) -> Pullers:
    """`{"patterns": [{"agent": "^mirror/", "class": "replication"}], "ignored": ["scanner"]}`.

    Raises ValueInvalid; whether an expression is one is for its compiler to say.
    """
    return pullers_of(read(document, PullersRequest, ValueInvalid))


def pullers_of(request: PullersRequest) -> Pullers:
    """The policy of a request. Raises ValueInvalid."""
    patterns = tuple(Pattern(each.agent, _puller(each.puller)) for each in request.patterns)
    if request.ignored is UNSET:
        return Pullers(patterns)
    return Pullers(patterns, frozenset(map(_puller, request.ignored)))


def _puller(name: str) -> Puller:
    if name in list(Puller):
        return Puller(name)
    raise ValueInvalid(message=f"{shown(name)} is no class of pullers: {', '.join(Puller)}")


def pullers_document(pullers: Pullers, usual: tuple[Pattern, ...] = ()) -> PullersDocument:
    """What `parse_pullers` reads, and the `usual` patterns for a reader."""
    return PullersDocument(
        _patterns(pullers.patterns), sorted(pullers.ignored), _patterns(usual) if usual else UNSET
    )


def _patterns(patterns: tuple[Pattern, ...]) -> list[PatternDocument]:
    return [PatternDocument(agent=each.agent, puller=each.puller) for each in patterns]
