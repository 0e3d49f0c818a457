"""What each route asks of its caller: an audience, and rights."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ullage.authorization import ADMINISTRATION, Action, Principal
from ullage.oci.reference import RepositoryName

# The name in a scope that covers all repositories.
ALL_REPOSITORIES = RepositoryName("*")


class Audience(Enum):
    """The callers that a route lets in."""

    # All: the token endpoints are how a caller gets in.
    ANYBODY = "anybody"
    # Those with an account, or with a token for anonymous pulls.
    KNOWN = "known"
    # Those that may list repositories.
    CATALOG = "catalog"
    # Those that may list what was deleted softly.
    DELETED_CATALOG = "deleted_catalog"
    # Those with rights on the repository in the path.
    REPOSITORY = "repository"
    # Those with rights on all repositories, also on those that there will be.
    EVERYTHING = "everything"
    # Those that manage the registry itself.
    ADMINISTRATORS = "administrators"


@dataclass(frozen=True, slots=True)
class Permission:
    audience: Audience
    actions: tuple[Action, ...] = ()
    # Refused by a registry without accounts: what it does would outlast that.
    takes_accounts: bool = False

    def scope(self, name: str | None) -> str | None:
        """The scope to request from the token endpoint; None if any token will do."""
        if self.audience is Audience.CATALOG:
            return "registry:catalog:*"
        if self.audience is Audience.DELETED_CATALOG:
            return "registry:deleted_catalog:*"
        if self.audience is Audience.ADMINISTRATORS:
            return f"registry:{ADMINISTRATION}:*"
        if self.audience in _OF_REPOSITORIES:
            return f"repository:{name or '*'}:{','.join(self.actions)}"
        return None

    def missing(self, principal: Principal, name: str | None) -> list[dict[str, str]]:
        """The rights that the caller lacks, as real ACR lists them; empty if it may go on."""
        if self.audience is Audience.CATALOG and not principal.listing:
            return [{"Type": "registry", "Name": "catalog", "Action": "*"}]
        if self.audience is Audience.DELETED_CATALOG and not principal.listing_deleted:
            return [{"Type": "registry", "Name": "deleted_catalog", "Action": "*"}]
        if self.audience is Audience.ADMINISTRATORS and not principal.admin:
            return [{"Type": "registry", "Name": ADMINISTRATION, "Action": "*"}]
        if self.audience not in _OF_REPOSITORIES:
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
ADMINISTRATION_READ = Permission(Audience.ADMINISTRATORS)
ADMINISTRATION_WRITE = Permission(Audience.ADMINISTRATORS)
# Accounts and keys, which count for nothing as long as no caller is asked for an account.
ACCOUNTS_WRITE = Permission(Audience.ADMINISTRATORS, takes_accounts=True)
# A source names digests, which count in every repository.
GUARD_REPORT = Permission(Audience.EVERYTHING, (Action.GUARD_REPORT,))
DELETED_READ = Permission(Audience.REPOSITORY, (Action.DELETED_READ,))
DELETED_RESTORE = Permission(Audience.REPOSITORY, (Action.DELETED_RESTORE,))
