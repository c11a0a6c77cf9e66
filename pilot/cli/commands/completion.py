"""``pilot completion``: the script that a shell needs to complete this command line."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    \b
    bash:  eval "$(pilot completion bash)"       in ~/.bashrc
    zsh:   eval "$(pilot completion zsh)"        in ~/.zshrc
    fish:  pilot completion fish | source        in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    program = context.find_root().command
    click.echo(kind(program, {}, "pilot", "_PILOT_COMPLETE").source())
