"""`ullage completion`: what a shell needs to complete our commands, flags, repositories and tags.

The shell functions only ask: `ullage __complete INDEX WORD…` prints what may stand at that place,
one a line, with a tab and an explanation behind it.
"""

from __future__ import annotations

from ullage.cli.shell.commands import Command, Flag
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.invocation import Invocation, Result

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

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def completion(invocation: Invocation) -> Result:
    script = SCRIPTS.get(invocation.given.shell)
    if script is None:
        raise Failure(f"'{invocation.given.shell}' - expected bash, zsh or fish", 2)
    return Result(text=script.lstrip("\n"))


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
