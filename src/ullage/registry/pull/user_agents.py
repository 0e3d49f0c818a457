"""What pulls: a node that runs images, a build, a scanner, … told apart by their User-Agent.

Pure: patterns in, classes out. What a class means for rules is decided by the policy: a scanner
looks at everything every night, and so says nothing about what is needed (harbor#15810, #20084).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from ullage.oci.errors import ValueInvalid, shown

# What was pulled within this time is not deleted because it was not read.
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


def parse_pullers(document: Mapping[str, Any]) -> Pullers:
    """`{"patterns": [{"agent": "^mirror/", "class": "replication"}], "ignored": ["scanner"]}`.

    What is left out is as usual. Raises ValueInvalid; whether an expression is valid is found out
    where it is compiled.
    """
    unknown = sorted(document.keys() - {"patterns", "ignored"})
    if unknown:
        raise ValueInvalid(message=f"unknown: {', '.join(unknown[:10])}"[:200])
    patterns = document.get("patterns", [])
    if not isinstance(patterns, list) or len(patterns) > MAX_PATTERNS:
        raise ValueInvalid(message=f"patterns: expected a list of at most {MAX_PATTERNS}")
    ignored = document.get("ignored", [*Pullers().ignored])
    if not isinstance(ignored, list):
        raise ValueInvalid(message="ignored: expected a list of classes")
    return Pullers(tuple(map(_pattern, patterns)), frozenset(map(_puller, ignored)))


def _pattern(value: object) -> Pattern:
    if not isinstance(value, dict) or value.keys() != {"agent", "class"}:
        raise ValueInvalid(message='patterns: expected {"agent": …, "class": …}')
    agent = value["agent"]
    if not isinstance(agent, str) or not agent:
        raise ValueInvalid(message="agent: expected an expression")
    return Pattern(agent, _puller(value["class"]))


def _puller(value: object) -> Puller:
    if isinstance(value, str) and value in list(Puller):
        return Puller(value)
    raise ValueInvalid(
        message=f"{shown(str(value)[:40])} is no class of pullers: {', '.join(Puller)}"
    )


def puller_document(pullers: Pullers) -> dict[str, Any]:
    """What `parse_pullers` reads."""
    return {
        "patterns": [{"agent": each.agent, "class": each.puller} for each in pullers.patterns],
        "ignored": sorted(pullers.ignored),
    }
