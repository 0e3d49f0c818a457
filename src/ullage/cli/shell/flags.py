"""Flags that many commands have."""

from __future__ import annotations

from ullage.cli.shell.commands import Flag

_REGISTRY_HELP = (
    "The registry: host[:port], a URL, or a name saved with `ullage login` or `ullage config`. "
    "Default: ULLAGE_REGISTRY, else what `ullage config` has, else http://127.0.0.1:5000."
)
ACCESS = (
    Flag(
        ("--suffix",),
        "A name's tenant suffix: `--name NAME --suffix S` is the registry NAME-S.",
        "SUFFIX",
    ),
    Flag(("--username", "-u"), "The user name. Default: that of `ullage login`.", "USERNAME"),
    Flag(("--password", "-p"), "The password; asked for if left out.", "PASSWORD"),
    Flag(
        ("--ca-file",),
        "PEM file with the authorities to trust. Default: ULLAGE_CA_FILE, else REQUESTS_CA_BUNDLE, "
        "else those of the system.",
        "FILE",
    ),
)
# Of all commands but `manifest`: az calls the registry --name here and --registry there.
REGISTRY = (
    Flag(("--name", "-n", "--registry", "-r"), _REGISTRY_HELP, "REGISTRY", dest="registry"),
    *ACCESS,
    Flag(("--resource-group", "-g"), "Ignored, as by az.", "GROUP", hidden=True),
)
# Of `manifest` commands, where --name is the repository or the artifact, as az has it.
MANIFEST_REGISTRY = (
    Flag(("--registry", "-r"), _REGISTRY_HELP, "REGISTRY", dest="registry"),
    *ACCESS,
)
REPOSITORY = Flag(("--repository",), "The name of the repository.", "REPOSITORY")
IMAGE = Flag(
    ("--image", "-t"),
    "The image: name:tag or name@digest; name alone is name:latest.",
    "IMAGE",
)
TOP = Flag(("--top",), "At most this many items.", "NUMBER", kind=int)
ORDERBY = Flag(
    ("--orderby",),
    "Order by time of the last update. Default: by name.",
    "ORDER",
    choices=("time_asc", "time_desc"),
)
DETAIL = Flag(("--detail",), "All there is to know about each.")
YES = Flag(("--yes", "-y"), "Do not ask.")
ATTRIBUTES = (
    Flag(("--delete-enabled",), "May it be deleted?", "true|false", three_state=True),
    Flag(("--list-enabled",), "Does it show in lists?", "true|false", three_state=True),
    Flag(("--read-enabled",), "May it be pulled?", "true|false", three_state=True),
    Flag(("--write-enabled",), "May it be changed or deleted?", "true|false", three_state=True),
)
