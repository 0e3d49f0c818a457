"""The first words of commands, and what each group is for."""

from __future__ import annotations

TITLE = "A container registry that gives space back."
# The first words of the commands in `local`, which is slow to import: it is not asked for help.
LOCAL = {
    "serve": "Run the registry.",
    "health": "Say whether the server of this machine is fit for work, for health checks.",
    "status": "A registry on one screen: the disk, what will be freed and when, what needs you.",
    "check": "Prove that what the database says and what the disk holds agree, also while it "
    "serves.",
    "user": "People and programs that log in with a password.",
    "token": "Repository-scoped tokens: limited rights, two passwords, expiry.",
    "scope-map": "Named sets of rights for users and tokens.",
    "key": "The keys that sign access tokens.",
    "audit": "Who changed what.",
    "upload": "Upload sessions that are open: list, cancel.",
    "store": "Where the bytes are: bring them to another place.",
    "backup": "Copy a registry to a folder, while it serves; list the copies, remove old ones.",
    "restore-backup": "Make a registry of a backup.",
    "survey": "Look at another registry's storage: whose its bytes are, what can be freed.",
    "migrate": "Bring the database of an older version up to date.",
    "version": "Print the version.",
}
GROUPS = {
    **LOCAL,
    "credential": "The two passwords of a token.",
    "repository": "Repositories, their tags and manifests: list, show, lock, untag, delete.",
    "manifest": "Manifests and what refers to them: list, show, lock, delete.",
    "lock": "Keep something from being deleted, and say why; list what is kept.",
    "immutable": "Tags that are written once, by rules: set, list, remove.",
    "guard": "What clusters run, so that no deletion takes it: report, list, show, forget.",
    "job": "Long work that a registry does: list, show, watch, cancel.",
    "retention": "What a registry deletes by itself: show, set, explain, test, run.",
    "pullers": "Classes of clients that pull, by user agent: show, set.",
    "deleted": "Deletions that can be taken back: list, show.",
    "config": "Defaults, names for registries, and what a registry does by itself.",
    "soft-delete": "Whether deletions can be taken back: show, update.",
}
