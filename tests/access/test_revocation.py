"""When rights end: reliability.md S6 and S9. For Basic at once, for tokens within ten seconds."""

import os
from pathlib import Path

import bcrypt
import pytest

from tests.access.keep import OPERATOR, Keep
from tests.support.documents import given
from ullage.accounts import queries, scope_maps, signing_keys, users
from ullage.accounts import tokens as scoped_tokens
from ullage.accounts.authenticator import RECHECK_SECONDS
from ullage.accounts.htpasswd import HtpasswdAccounts, HtpasswdInvalid
from ullage.accounts.jwt import ACCESS_LIFETIME, IDENTITY_LIFETIME, KEY_OVERLAP, REFRESH_LIFETIME
from ullage.accounts.names import AccountInvalid, AccountUnknown
from ullage.accounts.passwords import new_password
from ullage.accounts.signing_keys import KEYS_RECHECK_SECONDS
from ullage.authorization import Action, Grant, narrowed, parse_scopes
from ullage.oci.errors import BlobUploadUnknown
from ullage.oci.reference import parse_repository_name
from ullage.registry.clients import Caller
from ullage.registry.push.sessions import get_upload, start_upload
from ullage.registry.push.uploads import add_to_upload

PASSWORD = "a password that is long"
DAY = 86_400


def test_a_disabled_user_is_refused_at_once_with_basic(keep: Keep) -> None:
    """Also when its password is one that was remembered."""
    keep.user("ada", PASSWORD)
    assert keep.lets_in("ada", PASSWORD)
    users.update_user(keep.registry, OPERATOR, "ada", status="disabled")
    assert not keep.lets_in("ada", PASSWORD)
    users.update_user(keep.registry, OPERATOR, "ada", status="enabled")
    assert keep.lets_in("ada", PASSWORD)


@pytest.mark.parametrize("what", ["disabled", "disabled for a while", "deleted", "password"])
def test_tokens_end_within_the_recheck_time_of_a_change_to_their_user(
    keep: Keep, what: str
) -> None:
    """S6: of every kind, long before they expire; and they do not come back."""
    keep.user("ada", PASSWORD)
    token, refresh = keep.access_token("ada", PASSWORD), keep.refresh_token("ada", PASSWORD)
    identity = keep.identity_token("ada", PASSWORD)
    assert keep.takes(token)
    assert keep.renews(refresh)
    assert keep.renews(identity)
    match what:
        case "deleted":
            users.delete_user(keep.registry, OPERATOR, "ada")
        case "password":
            users.set_password(keep.registry, OPERATOR, "ada", "another long password")
        case _:
            users.update_user(keep.registry, OPERATOR, "ada", status="disabled")
    if what == "disabled for a while":
        users.update_user(keep.registry, OPERATOR, "ada", status="enabled")
    assert not keep.renews(refresh)
    assert not keep.renews(identity)
    keep.advance(RECHECK_SECONDS)
    assert not keep.takes(token)


@pytest.mark.parametrize("how", ["another map", "the map", "no administrator"])
def test_rights_that_are_taken_from_an_account_are_taken_from_its_tokens(
    keep: Keep, how: str
) -> None:
    """S6, CVE-2025-23208: within the recheck time; no client has to log in again for it."""
    rights = ["team/*", "content/read", "content/delete"]
    scope_maps.create_scope_map(keep.registry, OPERATOR, "map", [rights])
    scope_maps.create_scope_map(keep.registry, OPERATOR, "reader", [["team/*", "content/read"]])
    keep.user("root", PASSWORD, admin=True)
    keep.user("ada", PASSWORD, scope_map="map", admin=how == "no administrator")
    tokens = [
        keep.access_token("ada", PASSWORD, scope)
        for scope in ("repository:*:*", "repository:team/*:*", "repository:team/app:pull,delete")
    ]
    identity = keep.identity_token("ada", PASSWORD)
    assert [_may(keep, token, "team/app") for token in tokens] == [["pull", "delete"]] * 3 or (
        how == "no administrator"
    )
    match how:
        case "another map":
            users.update_user(keep.registry, OPERATOR, "ada", scope_map="reader")
        case "the map":
            scope_maps.update_scope_map(
                keep.registry, OPERATOR, "map", remove=[["team/*", "content/delete"]]
            )
        case _:
            users.update_user(keep.registry, OPERATOR, "ada", admin=False, scope_map="reader")
    keep.advance(RECHECK_SECONDS)
    assert [_may(keep, token, "team/app") for token in tokens] == [["pull"]] * 3
    assert [_may(keep, token, "rival/app") for token in tokens] == [[]] * 3
    principals = [keep.takes(token) for token in tokens]
    assert not any(principal and principal.admin for principal in principals)
    assert keep.renews(identity)


def _may(keep: Keep, token: str, name: str) -> list[str]:
    principal = keep.takes(token)
    return [] if principal is None else [a.value for a in Action if principal.may(a, name)]


def test_a_token_of_a_deleted_user_is_no_good_for_a_new_one_of_that_name(keep: Keep) -> None:
    """CVE-2026-28740 in another shape: what was signed for the old one must not speak for it."""
    keep.user("ada", PASSWORD)
    token, refresh = keep.access_token("ada", PASSWORD), keep.refresh_token("ada", PASSWORD)
    users.delete_user(keep.registry, OPERATOR, "ada")
    keep.user("ada", "another long password")
    assert not keep.takes(token)
    assert not keep.renews(refresh)


def test_a_changed_password_ends_the_old_one_at_once(keep: Keep) -> None:
    keep.user("ada", PASSWORD)
    assert keep.lets_in("ada", PASSWORD)
    users.set_password(keep.registry, OPERATOR, "ada", "another long password")
    assert not keep.lets_in("ada", PASSWORD)
    assert keep.lets_in("ada", "another long password")


def test_a_disabled_token_is_refused_like_a_disabled_user(keep: Keep) -> None:
    [password, _] = keep.token("ci", "content/read")
    token, refresh = keep.access_token("ci", password), keep.refresh_token("ci", password)
    assert keep.takes(token)
    scoped_tokens.update_token(keep.registry, OPERATOR, "ci", status="disabled")
    assert not keep.lets_in("ci", password)
    assert not keep.renews(refresh)
    keep.advance(RECHECK_SECONDS)
    assert not keep.takes(token)


def test_the_two_passwords_of_a_token_are_replaced_one_at_a_time(keep: Keep) -> None:
    """S9: a rotation without a moment in which no password works."""
    first, second = keep.token("ci", "content/read")
    assert keep.lets_in("ci", first)
    assert keep.lets_in("ci", second)
    made = scoped_tokens.generate_credentials(keep.registry, OPERATOR, "ci", slots=["password1"])
    new = given(made.credentials.passwords[0].value)
    assert not keep.lets_in("ci", first)
    assert keep.lets_in("ci", second)
    assert keep.lets_in("ci", new)
    scoped_tokens.delete_credentials(keep.registry, OPERATOR, "ci", ["password2"])
    assert not keep.lets_in("ci", second)
    assert keep.lets_in("ci", new)


@pytest.mark.parametrize("how", ["generated", "deleted"])
def test_what_a_password_bought_ends_with_it_and_with_no_other(keep: Keep, how: str) -> None:
    """Else the tokens of a leaked password would be good for months."""
    first, second = keep.token("ci", "content/read")
    bought = {
        password: (
            keep.access_token("ci", password),
            keep.refresh_token("ci", password),
            keep.identity_token("ci", password),
        )
        for password in (first, second)
    }
    if how == "generated":
        scoped_tokens.generate_credentials(keep.registry, OPERATOR, "ci", slots=["password1"])
    else:
        scoped_tokens.delete_credentials(keep.registry, OPERATOR, "ci", ["password1"])
    keep.advance(RECHECK_SECONDS)
    access, *renewing = bought[first]
    assert not keep.takes(access)
    assert not any(keep.renews(token) for token in renewing)
    access, *renewing = bought[second]
    assert keep.takes(access)
    assert all(keep.renews(token) for token in renewing)


def test_a_token_got_with_a_refresh_token_ends_with_its_password_too(keep: Keep) -> None:
    """However often it was renewed."""
    [first, _] = keep.token("ci", "content/read")
    account = keep.door.account_of_refresh_token(keep.identity_token("ci", first))
    refresh = keep.door.refresh_token(account)
    access = keep.door.access_token(account, parse_scopes(["repository:*:*"])).token
    scoped_tokens.generate_credentials(keep.registry, OPERATOR, "ci", slots=["password1"])
    assert not keep.renews(refresh)
    assert not keep.takes(access)


def test_a_password_ends_when_it_expires_and_with_the_last_one_all_it_bought(keep: Keep) -> None:
    """A refresh token must not outlive what it was bought with, renewed or not."""
    [password, _] = keep.token("ci", "content/read", expires_in_days=1)
    keep.advance(DAY - 1)
    token, refresh = keep.access_token("ci", password), keep.refresh_token("ci", password)
    assert keep.takes(token)
    keep.advance(2)
    assert not keep.lets_in("ci", password)
    assert not keep.renews(refresh)
    keep.advance(RECHECK_SECONDS)
    assert not keep.takes(token)


def test_tokens_expire(keep: Keep) -> None:
    """azure.md section 1.5: access within an hour and a minute's leeway, refresh after three hours.

    What docker keeps instead of a password goes on for months.
    """
    keep.user("ada", PASSWORD)
    token, refresh = keep.access_token("ada", PASSWORD), keep.refresh_token("ada", PASSWORD)
    identity = keep.identity_token("ada", PASSWORD)
    keep.advance(ACCESS_LIFETIME.total_seconds() - 1)
    assert keep.takes(token)
    keep.advance(62)
    assert not keep.takes(token)
    keep.advance((REFRESH_LIFETIME - ACCESS_LIFETIME).total_seconds() - 62)
    assert keep.renews(refresh)
    keep.advance(62)
    assert not keep.renews(refresh)
    keep.advance((IDENTITY_LIFETIME - REFRESH_LIFETIME).total_seconds() - 63)
    assert keep.renews(identity)
    keep.advance(63)
    assert not keep.renews(identity)


def test_a_remembered_token_is_not_good_for_longer_than_it_says(keep: Keep) -> None:
    keep.user("ada", PASSWORD)
    token = keep.access_token("ada", PASSWORD)
    keep.advance(ACCESS_LIFETIME.total_seconds() + 59)
    assert keep.takes(token)
    keep.clock.advance(2)
    assert not keep.takes(token)


def test_a_token_carries_no_more_than_was_granted_when_it_was_made(keep: Keep) -> None:
    [password, _] = keep.token("ci", "content/read")
    token = keep.access_token("ci", password, "repository:team/app:pull,push,delete")
    principal = keep.takes(token)
    assert principal is not None
    assert [a for a in Action if principal.may(a, "team/app")] == [Action.PULL]
    assert not principal.may(Action.PULL, "team/other")
    assert not principal.admin


# --- keys -----------------------------------------------------------------------------------------


def test_after_a_key_rotation_old_tokens_go_on_until_they_expire(keep: Keep) -> None:
    """Rotation with overlap: no client is logged out by it."""
    keep.user("ada", PASSWORD)
    before, identity = keep.access_token("ada", PASSWORD), keep.identity_token("ada", PASSWORD)
    signing_keys.rotate_key(keep.registry, OPERATOR)
    keep.door.keys.reload()
    after = keep.access_token("ada", PASSWORD)
    assert before.split(".")[0] != after.split(".")[0], "signed with the old key"
    assert keep.takes(before)
    assert keep.takes(after)
    keep.advance(IDENTITY_LIFETIME.total_seconds())
    assert keep.renews(identity)


def test_after_a_key_was_revoked_no_token_of_before_is_good(keep: Keep) -> None:
    """For a key that leaked: its thief could sign anything."""
    keep.user("ada", PASSWORD)
    token, identity = keep.access_token("ada", PASSWORD), keep.identity_token("ada", PASSWORD)
    other = keep.another_door()
    assert keep.takes(token)
    signing_keys.rotate_key(keep.registry, OPERATOR, revoke=True)
    keep.door.look_again()
    assert not keep.takes(token)
    assert not keep.renews(identity)
    assert keep.takes(keep.access_token("ada", PASSWORD))
    # Another process of the same registry looks by itself.
    keep.advance(KEYS_RECHECK_SECONDS + 1)
    assert not keep.takes(token, other)


def test_a_retired_key_is_gone_once_nothing_it_signed_can_be_valid(keep: Keep) -> None:
    keep.user("ada", PASSWORD)
    signing_keys.rotate_key(keep.registry, OPERATOR)
    oldest = keep.clock() - KEY_OVERLAP
    assert len(keep.registry.read(lambda tx: queries.signing_keys(tx, oldest))) == 2
    keep.advance(KEY_OVERLAP.total_seconds() + 1)
    oldest = keep.clock() - KEY_OVERLAP
    assert len(keep.registry.read(lambda tx: queries.signing_keys(tx, oldest))) == 1


def test_a_key_made_by_another_process_is_known_when_its_first_token_comes(keep: Keep) -> None:
    """Servers that share a database share keys; none may refuse what another just signed."""
    keep.user("ada", PASSWORD)
    other = keep.another_door()
    keep.advance(2)
    signing_keys.rotate_key(keep.registry, OPERATOR)
    keep.door.keys.reload()
    token = keep.access_token("ada", PASSWORD)
    assert keep.takes(token, other)


def test_strangers_tokens_do_not_make_us_look_for_keys_all_the_time(
    keep: Keep, tmp_path: Path
) -> None:
    stranger = Keep(f"sqlite:///{tmp_path / 'elsewhere' / 'ullage.db'}", keep.clock)
    stranger.user("ada", PASSWORD)
    token = stranger.access_token("ada", PASSWORD)
    stranger.registry.db.close()
    other = keep.another_door()
    signing_keys.rotate_key(keep.registry, OPERATOR)
    keep.door.keys.reload()
    keep.user("ada", PASSWORD)
    ours = keep.access_token("ada", PASSWORD)
    # Looked at the keys less than a second ago, so the first is refused unseen …
    assert not keep.takes(token, other)
    assert not keep.takes(ours, other)
    # … and known a little later, at the latest when keys are read anyway.
    keep.advance(KEYS_RECHECK_SECONDS)
    assert keep.takes(ours, other)


# --- the first and the last account ---------------------------------------------------------------


def test_the_first_start_makes_an_administrator_and_no_other_does(keep: Keep) -> None:
    """CVE-2026-4404: its password is random, and shown once."""
    password = users.ensure_admin(keep.registry, OPERATOR)
    assert password is not None
    assert len(password) >= 20
    assert keep.lets_in("admin", password)
    assert users.ensure_admin(keep.registry, OPERATOR) is None
    assert keep.lets_in("admin", password)


def test_a_password_that_is_made_here_can_be_pasted_behind_a_flag() -> None:
    """`docker login -p -x…` and `az … -p -x…` take it for another flag."""
    made = {new_password() for _ in range(1000)}
    assert len(made) == 1000
    assert {len(password) for password in made} == {27}
    assert all(password.isascii() and password.isalnum() for password in made)


def test_no_administrator_is_made_where_there_are_accounts(keep: Keep) -> None:
    keep.token("ci", "content/read")
    assert users.ensure_admin(keep.registry, OPERATOR) is None


@pytest.mark.parametrize("what", ["delete", "disable", "demote"])
def test_the_last_administrator_stays(keep: Keep, what: str) -> None:
    """Else no account could manage anything any more; and a refused change leaves no trace."""
    keep.user("root", PASSWORD, admin=True)
    keep.user("ada", PASSWORD)

    def attempt() -> None:
        if what == "delete":
            users.delete_user(keep.registry, OPERATOR, "root")
        elif what == "disable":
            users.update_user(keep.registry, OPERATOR, "root", status="disabled")
        else:
            users.update_user(keep.registry, OPERATOR, "root", admin=False)

    with pytest.raises(AccountInvalid, match="last administrator"):
        attempt()
    assert keep.lets_in("root", PASSWORD)
    assert users.show_user(keep.registry, "root").admin is True
    keep.user("second", PASSWORD, admin=True)
    attempt()


def test_a_disabled_administrator_does_not_count_as_one(keep: Keep) -> None:
    keep.user("root", PASSWORD, admin=True)
    keep.user("second", PASSWORD, admin=True)
    users.update_user(keep.registry, OPERATOR, "second", status="disabled")
    with pytest.raises(AccountInvalid, match="last administrator"):
        users.delete_user(keep.registry, OPERATOR, "root")


# --- scope maps -----------------------------------------------------------------------------------


def test_a_tokens_own_scope_map_never_replaces_one_that_others_use(keep: Keep) -> None:
    """Else `token create --name ci` would give its rights to every user of ci-scope-map."""
    scope_maps.create_scope_map(
        keep.registry, OPERATOR, "ci-scope-map", [["open/*", "content/read"]]
    )
    keep.user("ada", PASSWORD, scope_map="ci-scope-map")
    with pytest.raises(AccountInvalid, match="ci-scope-map"):
        keep.token("ci", "content/read", "content/delete")
    principal = keep.takes(keep.access_token("ada", PASSWORD))
    assert principal is not None
    assert not principal.may(Action.DELETE, "team/app")


def test_a_scope_map_in_use_cannot_be_deleted(keep: Keep) -> None:
    keep.token("ci", "content/read")
    with pytest.raises(AccountInvalid, match="ci"):
        scope_maps.delete_scope_map(keep.registry, OPERATOR, "ci-scope-map")
    scoped_tokens.delete_token(keep.registry, OPERATOR, "ci")
    with pytest.raises(AccountUnknown):
        scope_maps.show_scope_map(keep.registry, "ci-scope-map")


@pytest.mark.parametrize(
    ("pattern", "covered", "not_covered"),
    [
        ("team/*", ["team/a", "team/a/b"], ["team", "teamx/a", "team-x/a", "xteam/a", "team2/a"]),
        ("team", ["team"], ["team/a", "teams"]),
        ("a/b/*", ["a/b/c"], ["a/b", "a/bc", "a/c"]),
        ("*", ["team", "team/a"], []),
    ],
)
def test_a_prefix_covers_what_lies_below_it_and_nothing_else(
    keep: Keep, pattern: str, covered: list[str], not_covered: list[str]
) -> None:
    """S22: team/* never matches teamx/…"""
    scope_maps.create_scope_map(keep.registry, OPERATOR, "map", [[pattern, "content/read"]])
    keep.user("ada", PASSWORD, scope_map="map")
    account = keep.door.login("ada", PASSWORD, "192.0.2.1")
    for principal in (
        account.principal,
        keep.door.bearer(keep.access_token("ada", PASSWORD)),
    ):
        assert all(principal.may(Action.PULL, name) for name in covered)
        assert not any(principal.may(Action.PULL, name) for name in not_covered)
    for name in not_covered:
        scopes = parse_scopes([f"repository:{name}:pull"])
        token = keep.door.access_token(account, scopes).token
        assert not keep.door.bearer(token).may(Action.PULL, name)


@pytest.mark.parametrize(
    ("granted", "asked", "both"),
    [
        ("*", "*", "*"),
        ("*", "team/*", "team/*"),
        ("team/*", "*", "team/*"),
        ("team/*", "team/x/*", "team/x/*"),
        ("team/x/*", "team/*", "team/x/*"),
        ("team/*", "team/app", "team/app"),
        ("team/app", "team/*", "team/app"),
        ("team/app", "team/app", "team/app"),
        ("team/*", "teamx/*", None),
        ("team/*", "team", None),
        ("team", "team/*", None),
        ("team/app", "team/app/*", None),
    ],
)
def test_a_token_allows_what_both_its_request_and_its_account_cover(
    granted: str, asked: str, both: str | None
) -> None:
    """S4 and S22, when the token is used."""
    pull, delete = frozenset({Action.PULL}), frozenset({Action.PULL, Action.DELETE})
    found = narrowed([Grant(granted, delete)], [Grant(asked, pull)])
    assert found == ((Grant(both, pull),) if both else ())
    assert narrowed([Grant(granted, pull)], [Grant(asked, delete)]) == found
    assert narrowed([Grant(granted, delete - pull)], [Grant(asked, pull)]) == ()


@pytest.mark.parametrize("verb", ["content/reed", "read", "*", "content/*", "", "x" * 300])
def test_a_word_that_is_no_action_is_named_together_with_those_that_are(
    keep: Keep, verb: str
) -> None:
    """As az acr says it: what was typed, for which repository, and what could have been."""
    with pytest.raises(AccountInvalid) as refused:
        scope_maps.create_scope_map(
            keep.registry, OPERATOR, "map", [["team/*", "content/read", verb]]
        )
    message = refused.value.message
    assert message.startswith(
        f"{verb[:100]!r} for team/* is no action; one or more of content/read,"
    )
    assert message.endswith("guard/report")


# --- htpasswd -------------------------------------------------------------------------------------


def htpasswd_line(name: str, password: str) -> str:
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    # As Apache's htpasswd -B writes it.
    return f"{name}:{hashed.replace('$2b$', '$2y$', 1)}\n"


def test_an_htpasswd_file_is_read_again_when_it_changes(keep: Keep, tmp_path: Path) -> None:
    path = tmp_path / "htpasswd"
    path.write_text("# people\n\n" + htpasswd_line("ada", PASSWORD))
    door = keep.another_door(HtpasswdAccounts(path))
    assert keep.lets_in("ada", PASSWORD, door)
    assert not keep.lets_in("bob", PASSWORD, door)
    token = door.access_token(
        door.login("ada", PASSWORD, "192.0.2.1"), parse_scopes(["repository:a:pull"])
    ).token
    assert keep.takes(token, door)
    path.write_text(htpasswd_line("ada", "another long password") + htpasswd_line("bob", PASSWORD))
    os.utime(path, (1, 1))
    assert not keep.lets_in("ada", PASSWORD, door)
    assert keep.lets_in("bob", PASSWORD, door)
    keep.advance(RECHECK_SECONDS)
    assert not keep.takes(token, door)


def test_a_password_longer_than_bcrypt_reads_is_wrong(keep: Keep, tmp_path: Path) -> None:
    """S7: else everything after the 72nd byte would be ignored."""
    path = tmp_path / "htpasswd"
    path.write_text(htpasswd_line("ada", "x" * 72))
    door = keep.another_door(HtpasswdAccounts(path))
    assert keep.lets_in("ada", "x" * 72, door)
    for wrong in ("x" * 73, "x" * 72 + "y", "x" * 5000, "x\0", "\udc80"):
        assert not keep.lets_in("ada", wrong, door)


def test_a_file_that_is_half_written_keeps_the_accounts_there_were(
    keep: Keep, tmp_path: Path
) -> None:
    """An editor's mistake must be neither a 500 nor an open door."""
    path = tmp_path / "htpasswd"
    path.write_text(htpasswd_line("ada", PASSWORD))
    door = keep.another_door(HtpasswdAccounts(path))
    for broken in ("ada:{SHA}x\n", "nonsense\n", "ada:$2y$10$x\n"):
        path.write_text(broken)
        os.utime(path, (len(broken), len(broken)))
        assert keep.lets_in("ada", PASSWORD, door), broken
    path.unlink()
    assert keep.lets_in("ada", PASSWORD, door)
    path.write_text(htpasswd_line("bob", PASSWORD))
    assert not keep.lets_in("ada", PASSWORD, door)
    assert keep.lets_in("bob", PASSWORD, door)


def test_a_file_that_cannot_be_used_is_named_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "htpasswd"
    path.write_text("ada:{SHA}x\n")
    with pytest.raises(HtpasswdInvalid, match=r"line 1.*bcrypt"):
        HtpasswdAccounts(path)


@pytest.mark.parametrize("with_bytes", [False, True])
@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("kind", ["user", "token"])
def test_disabling_or_deleting_an_account_ends_its_uploads(
    keep: Keep, kind: str, deleted: bool, with_bytes: bool
) -> None:
    """It could go on with none of them, and they would keep others out."""
    registry, name = keep.registry, parse_repository_name("app")
    if kind == "user":
        keep.user("ada", PASSWORD)
    else:
        keep.token("ada", "content/write")
    ada, grace = (Caller(who, "192.0.2.1", "test") for who in ("ada", "grace"))
    hers, others = (start_upload(registry, name, who) for who in (ada, grace))
    if with_bytes:
        add_to_upload(registry, name, hers.id, ada, 0, [b"some bytes"])
    room = users if kind == "user" else scoped_tokens
    if deleted:
        getattr(room, f"delete_{kind}")(registry, OPERATOR, "ada")
    else:
        getattr(room, f"update_{kind}")(registry, OPERATOR, "ada", status="disabled")
    with pytest.raises(BlobUploadUnknown):
        get_upload(registry, name, hers.id, ada)
    assert get_upload(registry, name, others.id, grace).id == others.id
