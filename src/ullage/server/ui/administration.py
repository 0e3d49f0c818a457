"""What administrators look after: accounts, the audit log, uploads; and locks with a reason."""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.responses import Response

from ullage.accounts import tokens, users
from ullage.accounts.audit_log import list_audit
from ullage.accounts.documents import UserDocument
from ullage.authorization import Action
from ullage.oci.digest import parse_digest
from ullage.oci.errors import RegistryError
from ullage.oci.reference import parse_tag
from ullage.registry.locks import image_locks
from ullage.registry.push import open_uploads
from ullage.server.http.errors import status_of
from ullage.server.http.json_bodies import require, seen
from ullage.server.http.permissions import (
    ACCOUNTS_WRITE,
    ADMINISTRATION_READ,
    ADMINISTRATION_WRITE,
    KNOWN,
)
from ullage.server.http.routes import Route
from ullage.server.ui.formats import address
from ullage.server.ui.visit import Visit

AUDIT_PAGE = 100
_FILTERS = ("subject", "action", "repository", "since")


# --- accounts -------------------------------------------------------------------------------------


async def list_accounts(visit: Visit) -> Response:
    """Users, who log in here, and tokens, which programs log in with."""
    return await _accounts(visit)


async def change_account(visit: Visit) -> Response:
    """Make a user, give it another password, disable it, or delete it."""
    form = await visit.form()
    name, do = form.one("name") or "", form.one("do") or ""
    made: UserDocument | None = None
    try:
        if do == "create":
            admin = form.one("admin") == "1"
            made = await visit.run(
                users.create_user,
                *(visit.registry, visit.caller, name),
                admin=admin,
                scope_map=form.one("scope_map") or None,
            )
        elif do == "password":
            made = await visit.run(users.set_password, visit.registry, visit.caller, name)
        elif do in ("enabled", "disabled"):
            await visit.run(users.update_user, visit.registry, visit.caller, name, status=do)
        elif do == "delete":
            await visit.run(users.delete_user, visit.registry, visit.caller, name)
    except RegistryError as error:
        return await _accounts(visit, problem=error)
    # A password that was made is in this one answer, and nowhere else.
    return visit.redirect("accounts") if made is None else await _accounts(visit, made=made)


async def _accounts(
    visit: Visit, made: UserDocument | None = None, problem: RegistryError | None = None
) -> Response:
    return await visit.page(
        "accounts.html",
        200 if problem is None else status_of(problem),
        users=await visit.run(users.list_users, visit.registry),
        tokens=await visit.run(tokens.list_tokens, visit.registry),
        made=made,
        problem=problem,
        may_change=visit.sessions is not None,
    )


# --- the audit log --------------------------------------------------------------------------------


async def show_audit(visit: Visit) -> Response:
    """Who changed what, the newest first."""
    query = visit.query
    wanted = {name: query.one(name) or "" for name in _FILTERS}
    last = query.one("last")
    entries = await visit.run(
        list_audit,
        visit.registry,
        **{name: value or None for name, value in wanted.items()},
        top=AUDIT_PAGE,
        before=None if last is None else seen(last),
    )
    more = len(entries) == AUDIT_PAGE
    return await visit.page(
        "audit.html",
        entries=entries,
        wanted=wanted,
        next="?" + urlencode({**wanted, "last": entries[-1].id}) if more else None,
    )


# --- uploads --------------------------------------------------------------------------------------


async def list_uploads(visit: Visit) -> Response:
    """Upload sessions that are open."""
    found = await visit.run(open_uploads.list_uploads, visit.registry)
    return await visit.page("uploads.html", uploads=found)


async def cancel_upload(visit: Visit) -> Response:
    """End one of them; its client begins again."""
    form = await visit.form()
    await visit.run(
        open_uploads.cancel_uploads,
        *(visit.registry, visit.caller),
        upload=form.one("upload") or "",
    )
    return visit.redirect("uploads")


# --- locks ----------------------------------------------------------------------------------------


async def list_locks(visit: Visit) -> Response:
    """Locks with a reason, in what the visitor may read."""
    found = await visit.run(image_locks.list_locks, visit.registry, visit.principal)
    return await visit.page(
        "locks.html",
        locks=[
            (
                lock,
                f"repositories/{address(lock.repository)}",
                visit.principal.may(Action.METADATA_WRITE, lock.repository),
            )
            for lock in found
        ],
        may_lock=any(Action.METADATA_WRITE in grant.actions for grant in visit.principal.grants),
        wanted=(visit.query.one("repository") or "", visit.query.one("reference") or ""),
    )


async def change_lock(visit: Visit) -> Response:
    """Lock a repository, a tag or a manifest; or lift what locks exactly this."""
    form = await visit.form()
    name = visit.name(form.one("repository") or "")
    require(visit.principal, [name], Action.METADATA_WRITE)
    text = (form.one("reference") or "").strip()
    reference = None if not text else parse_digest(text) if ":" in text else parse_tag(text)
    if form.one("do") == "lift":
        await visit.run(image_locks.lift_locks, visit.registry, name, reference, visit.caller)
        return visit.redirect("locks")
    until = (form.one("until") or "").strip()
    await visit.run(
        image_locks.place_lock,
        *(visit.registry, name, reference, visit.caller),
        reason=form.one("reason") or "",
        owner=None,
        until=image_locks.end_of(visit.registry, until) if until else None,
    )
    return visit.redirect("locks")


ROUTES = (
    Route("ui-accounts", "GET", "/ui/accounts", list_accounts, ADMINISTRATION_READ),
    Route("ui-accounts", "POST", "/ui/accounts", change_account, ACCOUNTS_WRITE),
    Route("ui-audit", "GET", "/ui/audit", show_audit, ADMINISTRATION_READ),
    Route("ui-uploads", "GET", "/ui/uploads", list_uploads, ADMINISTRATION_READ),
    Route("ui-uploads", "POST", "/ui/uploads", cancel_upload, ADMINISTRATION_WRITE),
    Route("ui-locks", "GET", "/ui/locks", list_locks, KNOWN),
    Route("ui-locks", "POST", "/ui/locks", change_lock, KNOWN),
)
