"""`ullage completion`: what a shell needs to complete our commands, flags, repositories and tags.

The shell functions only ask: `ullage __complete INDEX WORD…` prints what may stand at that place,
one a line, with a tab and an explanation behind it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from contextlib import closing

from ullage.cli.remote.call import Answer, Call
from ullage.cli.remote.failures import Failure
from ullage.cli.remote.grammar import Command, Flag
from ullage.cli.remote.scopes import CATALOG, scope_of
from ullage.cli.remote.talk import Level, Talk

# Nobody waits longer for a list of names.
_MOST = 200

# bash cuts words at : and @ =, and puts what we print behind the last cut. The function therefore
# gives the words as they were typed and takes off what already stands there.
BASH = r"""
_ullage_complete() {
    local line="${COMP_LINE:0:COMP_POINT}" words IFS=$' \t\n'
    read -r -a words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    local current="${words[${#words[@]}-1]}" cut="" IFS=$'\n' found
    if [[ $current == *[:=@]* ]]; then cut="${current%"${current##*[:=@]}"}"; fi
    found=$("${1:-ullage}" __complete "${words[@]:1}" 2>/dev/null | cut -f 1)
    COMPREPLY=()
    local one
    for one in $found; do COMPREPLY+=("${one#"$cut"}"); done
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *: ]] && compopt -o nospace
    return 0
}
complete -o default -F _ullage_complete ullage
"""

ZSH = r"""
#compdef ullage
_ullage() {
    local -a found described
    local line
    found=("${(@f)$(ullage __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    for line in $found; do
        [[ -z $line ]] && continue
        described+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done
    (( ${#described} )) && _describe 'ullage' described || _files
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -u; }
compdef _ullage ullage
"""

FISH = r"""
function __ullage_complete
    set -l words (commandline -opc) (commandline -ct)
    ullage __complete $words[2..] 2>/dev/null
end
complete -c ullage -f -a '(__ullage_complete)'
"""

_SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def completion(call: Call) -> Answer:
    script = _SCRIPTS.get(call.given.shell)
    if script is None:
        raise Failure(f"'{call.given.shell}' - expected bash, zsh or fish", 2)
    return Answer(text=script.lstrip("\n"))


def candidates(words: Sequence[str]) -> list[tuple[str, str]]:
    """What the last of `words` may become, with an explanation each. Never raises Failure."""
    from ullage.cli import table

    *before, current = words or [""]
    for length in range(len(before), 0, -1):
        command = table.find(tuple(before[:length]))
        if command is not None:
            return _of_command(command, before[length:], current)
    entries = table.below(tuple(before))
    if not before:
        entries = {**entries, **table.LOCAL}
    return _matching(entries.items(), current)


def _of_command(command: Command, given: Sequence[str], current: str) -> list[tuple[str, str]]:
    flags = [flag for flag in (*command.flags, *command.common) if not flag.hidden]
    by_name = {name: flag for flag in flags for name in flag.names}
    flag = by_name.get(given[-1]) if given else None
    if flag is not None and flag.value and not flag.positional:
        return _matching(_values(command, flag, given[:-1], current), current)
    if flag is None and not current.startswith("-"):
        positional = next((flag for flag in flags if flag.positional), None)
        values = _values(command, positional, given, current) if positional else []
        if values:
            return _matching(values, current)
    named = [(flag.names[0], flag.help) for flag in flags if not flag.positional]
    return _matching(named, current)


def _values(
    command: Command, flag: Flag, given: Sequence[str], current: str
) -> list[tuple[str, str]]:
    from ullage.cli import table

    if flag.three_state:
        return [("true", ""), ("false", "")]
    if flag.choices:
        return [(choice, "") for choice in flag.choices]
    if flag.names[0] == "shell":
        return [(shell, "") for shell in _SCRIPTS]
    if command.words[0] in table.LOCAL:
        # Its --name is no registry's.
        return []
    try:
        if flag.variable == "registry" or flag.names[0] == "positional_name":
            return [(name, url) for name, url in _call(given).named.items()]
        artifact = flag.names[0] == "--image" or command.words[0] == "manifest"
        if flag.names[0] == "--repository" or (artifact and flag.names[0] in ("--image", "--name")):
            return _from_registry(given, current, images=artifact)
    except Failure:
        pass
    return []


def _from_registry(given: Sequence[str], current: str, *, images: bool) -> list[tuple[str, str]]:
    """Repositories; behind a repository and a colon its tags."""
    from itertools import islice

    from ullage.cli.remote.session import tags_path

    repository, colon, _ = current.partition(":")
    with closing(_call(given)) as call:
        if images and colon:
            registry = call.registry(scope_of(repository, "metadata_read"))
            tags = islice(registry.pages(tags_path(repository), "tags"), _MOST)
            return [(f"{repository}:{tag['name']}", "") for tag in tags]
        registry = call.registry(CATALOG)
        names = islice(registry.pages("/v2/_catalog", "repositories"), _MOST)
        return [(name, "") for name in names]


def _call(given: Sequence[str]) -> Call:
    """With the flags that say which registry and who; a line being typed may lack anything."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--name", "-n", "--registry", "-r", dest="registry")
    for name in ("--suffix", "--username", "--password", "--ca-file"):
        parser.add_argument(name)
    known, _ = parser.parse_known_args(list(given))
    return Call(known, Talk(Level.ERROR))


def _matching(entries: Iterable[tuple[str, str]], current: str) -> list[tuple[str, str]]:
    return [(word, help) for word, help in entries if word.startswith(current)]


def print_candidates(words: Sequence[str]) -> int:
    for word, help in candidates(words):
        print(f"{word}\t{help}" if help else word)
    return 0


COMMANDS = (
    Command(
        ("completion",),
        "Print what makes a shell complete commands, flags, repositories and tags.",
        (Flag(("shell",), "bash, zsh or fish.", required=True),),
        completion,
        examples=(
            'eval "$(ullage completion bash)"',
            'eval "$(ullage completion zsh)"',
            "ullage completion fish | source",
        ),
    ),
)
