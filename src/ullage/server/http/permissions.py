"""What each route needs: whom it is for, and which rights they must have."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ullage.authorization import Action, Principal
from ullage.oci.reference import RepositoryName

# What a scope names that covers all repositories.
ALL_REPOSITORIES = RepositoryName("*")


class Audience(Enum):
    """What a route is about, and so whom it lets in."""

    # The token endpoints: they are how somebody gets in.
    ANYBODY = "anybody"
    # Anybody with an account, or a token for anonymous.
    KNOWN = "known"
    # Those who may ask what repositories there are.
    CATALOG = "catalog"
    # The same, of what was deleted softly.
    DELETED_CATALOG = "deleted_catalog"
    # Those with rights on the repository in the path.
    REPOSITORY = "repository"
    # Those with rights on all repositories, also on those that there will be.
    EVERYTHING = "everything"


@dataclass(frozen=True, slots=True)
class Permission:
    whom: Audience
    actions: tuple[Action, ...] = ()

    def scope(self, name: str | None) -> str | None:
        """What a client has to ask the token endpoint for; None if any token will do."""
        if self.whom is Audience.CATALOG:
            return "registry:catalog:*"
        if self.whom is Audience.DELETED_CATALOG:
            return "registry:deleted_catalog:*"
        if self.whom in _OF_REPOSITORIES:
            return f"repository:{name or '*'}:{','.join(self.actions)}"
        return None

    def missing(self, principal: Principal, name: str | None) -> list[dict[str, str]]:
        """What the caller lacks, as real ACR lists it; empty if it may go on."""
        if self.whom is Audience.CATALOG and not principal.listing:
            return [{"Type": "registry", "Name": "catalog", "Action": "*"}]
        if self.whom is Audience.DELETED_CATALOG and not principal.listing_deleted:
            return [{"Type": "registry", "Name": "deleted_catalog", "Action": "*"}]
        if self.whom not in _OF_REPOSITORIES:
            return []
        return [
            {"Type": "repository", "Name": name or "*", "Action": action}
            for action in self.actions
            if not principal.may(action, name or "*")
        ]


_OF_REPOSITORIES = (Audience.REPOSITORY, Audience.EVERYTHING)
ANYBODY = Permission(Audience.ANYBODY)
KNOWN = Permission(Audience.KNOWN)
CATALOG = Permission(Audience.CATALOG)
DELETED_CATALOG = Permission(Audience.DELETED_CATALOG)
PULL = Permission(Audience.REPOSITORY, (Action.PULL,))
PUSH = Permission(Audience.REPOSITORY, (Action.PULL, Action.PUSH))
DELETE = Permission(Audience.REPOSITORY, (Action.DELETE,))
METADATA_READ = Permission(Audience.REPOSITORY, (Action.METADATA_READ,))
METADATA_WRITE = Permission(Audience.REPOSITORY, (Action.METADATA_WRITE,))
# Policies say what is deleted anywhere.
POLICY_READ = Permission(Audience.EVERYTHING, (Action.METADATA_READ,))
POLICY_WRITE = Permission(
    Audience.EVERYTHING, (Action.METADATA_READ, Action.METADATA_WRITE, Action.DELETE)
)
DELETED_READ = Permission(Audience.REPOSITORY, (Action.DELETED_READ,))
DELETED_RESTORE = Permission(Audience.REPOSITORY, (Action.DELETED_RESTORE,))
