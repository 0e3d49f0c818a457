"""What each route needs: whom it is for, and which rights they must have."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ullage.services.access import Action, Principal


class Whom(Enum):
    """What a route is about, and so whom it lets in."""

    # The token endpoints: they are how somebody gets in.
    ANYBODY = "anybody"
    # Anybody with an account, or a token for anonymous.
    KNOWN = "known"
    # Those who may ask what repositories there are.
    CATALOG = "catalog"
    # The same, of what was deleted softly.
    DELETED_CATALOG = "deleted_catalog"
    # Administrators: what the registry does by itself is theirs to say.
    ADMINISTRATORS = "administrators"
    # Those with rights on the repository in the path.
    REPOSITORY = "repository"


@dataclass(frozen=True, slots=True)
class Need:
    whom: Whom
    actions: tuple[Action, ...] = ()

    def scope(self, name: str | None) -> str | None:
        """What a client has to ask the token endpoint for; None if any token will do."""
        if self.whom is Whom.CATALOG:
            return "registry:catalog:*"
        if self.whom is Whom.DELETED_CATALOG:
            return "registry:deleted_catalog:*"
        if self.whom is Whom.ADMINISTRATORS:
            return "repository:*:metadata_write"
        if self.whom is Whom.REPOSITORY:
            return f"repository:{name}:{','.join(self.actions)}"
        return None

    def missing(self, principal: Principal, name: str | None) -> list[dict[str, str]]:
        """What the caller lacks, as real ACR lists it; empty if it may go on."""
        if self.whom is Whom.CATALOG and not principal.listing:
            return [{"Type": "registry", "Name": "catalog", "Action": "*"}]
        if self.whom is Whom.DELETED_CATALOG and not principal.listing_deleted:
            return [{"Type": "registry", "Name": "deleted_catalog", "Action": "*"}]
        if self.whom is Whom.ADMINISTRATORS and not _administers(principal):
            return [{"Type": "registry", "Name": "policies", "Action": "*"}]
        if self.whom is not Whom.REPOSITORY or name is None:
            return []
        return [
            {"Type": "repository", "Name": name, "Action": action}
            for action in self.actions
            if not principal.may(action, name)
        ]


def _administers(principal: Principal) -> bool:
    """An administrator's token that was made for one repository does not say so."""
    return principal.admin and principal.may(Action.METADATA_WRITE, "*")


ANYBODY = Need(Whom.ANYBODY)
KNOWN = Need(Whom.KNOWN)
CATALOG = Need(Whom.CATALOG)
DELETED_CATALOG = Need(Whom.DELETED_CATALOG)
ADMINISTRATORS = Need(Whom.ADMINISTRATORS)
PULL = Need(Whom.REPOSITORY, (Action.PULL,))
PUSH = Need(Whom.REPOSITORY, (Action.PULL, Action.PUSH))
DELETE = Need(Whom.REPOSITORY, (Action.DELETE,))
METADATA_READ = Need(Whom.REPOSITORY, (Action.METADATA_READ,))
METADATA_WRITE = Need(Whom.REPOSITORY, (Action.METADATA_WRITE,))
DELETED_READ = Need(Whom.REPOSITORY, (Action.DELETED_READ,))
DELETED_RESTORE = Need(Whom.REPOSITORY, (Action.DELETED_RESTORE,))
