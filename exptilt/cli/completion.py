"""`exptilt completion SHELL`: a script by which a shell completes commands, flags and their values.

The script asks the program itself, so that the flags are those of the sampler on the line. Where there is nothing to say, the
shell completes names of files.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console

from exptilt import names
from exptilt.cli.arguments import Parser, fill
from exptilt.cli.groups import Subcommand, flags_of
from exptilt.cli.values import one_of
from exptilt.errors import ExptiltError
from exptilt.evaluation.tasks import NAMED, OFFLINE

ABOUT = """Print a script that completes commands, flags and their values. To use it:
  bash  eval "$(exptilt completion bash)" in ~/.bashrc
  zsh   eval "$(exptilt completion zsh)" in ~/.zshrc, after compinit
  fish  exptilt completion fish > ~/.config/fish/completions/exptilt.fish"""
ASKED = ("completion", "words")  # how the scripts ask, followed by -- and the words up to the cursor

SCRIPTS = {
    "bash": r"""_exptilt() {
    local IFS=$'\n' word="${COMP_WORDS[COMP_CWORD]}"
    COMPREPLY=($(compgen -W "$("${COMP_WORDS[0]}" completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "$word"))
}
complete -o default -F _exptilt exptilt""",
    "zsh": r"""#compdef exptilt
_exptilt() {
    local -a found
    found=("${(@f)$("${words[1]}" completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "$found" ]]; then compadd -- "${found[@]}"; else _files; fi
}
compdef _exptilt exptilt""",
    "fish": r"""function __exptilt_words
    set -l words (commandline -opc) (commandline -ct)
    $words[1] completion words -- $words[2..-1] 2>/dev/null
end
complete -c exptilt -a '(__exptilt_words)'""",
}


def add_flags(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    parser.add_argument("shell", help="the shell: bash, zsh or fish", **one_of(*SCRIPTS))


def execute(args: argparse.Namespace, console: Console) -> int:
    print(SCRIPTS[args.shell])
    return 0


def candidates(words: Sequence[str], commands: Mapping[str, Subcommand]) -> Iterator[str]:
    """What may stand at the end of a line whose last word is being typed; nothing where it is a file's or free text."""
    *before, typed = words or [""]
    command = next((word for word in before if word in commands), None)
    if command is None:
        yield from (word for word in (*commands, "--help", "--version") if word.startswith(typed))
        return
    parser = Parser(prog="exptilt", allow_abbrev=False)
    try:
        fill(parser, commands[command], before)
    except ExptiltError:  # the line holds a mistake, which the command will tell
        return
    flag, sign, _ = typed.partition("=")
    asked = flag if sign else before[-1]
    action = parser._option_string_actions.get(asked)
    if action is not None and action.nargs != 0:
        found = (f"{asked}={word}" if sign else word for word in _values(action))
        yield from (word for word in found if word.startswith(typed))
    elif typed.startswith("-"):
        yield from sorted(word for word in flags_of(parser) if word.startswith(typed))
    elif command == COMMAND.name:
        yield from (word for word in SCRIPTS if word.startswith(typed))


def _values(action: argparse.Action) -> Sequence[str]:
    """The words that a flag takes, as far as they can be listed."""
    metavar = str(action.metavar or "")
    if metavar.startswith("{"):
        return metavar.strip("{}").split(",")
    listed = {
        "sampler": names.known_samplers(),
        "inner": names.SAMPLERS.names,
        "reward": names.REWARDS.names,
        "select": names.SELECTS.names,
        "answer": names.ANSWERS.names,
        "utility": names.UTILITIES.names,
        "task": (*OFFLINE, *NAMED),
    }
    return [*listed.get(action.dest, ())]


COMMAND = Subcommand(
    "completion",
    "a script by which your shell completes commands and flags",
    ABOUT,
    "exptilt completion {bash,zsh,fish}",
    add_flags,
    execute,
)
