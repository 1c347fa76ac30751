"""`istioctl help [VERB…]` and `istioctl options`: what `--help` says, asked as cobra's users ask."""

from __future__ import annotations

import click

from meltem.cli.base import command, global_flags


@command("help", help="Shows the help of a command.")
@click.argument("words", nargs=-1, metavar="[COMMAND]…")
@click.pass_context
def help_of(context: click.Context, words: tuple[str, ...]) -> None:
    root = context.find_root()
    found: click.Command = root.command
    at = root
    for word in words:
        below = found.get_command(at, word) if isinstance(found, click.Group) else None
        if below is None:
            raise click.UsageError(f'unknown command "{word}" for "{at.command_path}"')
        found, at = below, click.Context(below, info_name=word, parent=at)
    click.echo(found.get_help(at))


@command("options", help="Lists the flags that every command takes.")
@click.pass_context
def options(context: click.Context) -> None:
    click.echo("The following flags can be passed to any command:\n")
    formatter = context.make_formatter()
    formatter.write_dl(global_flags(context))
    click.echo(formatter.getvalue(), nl=False)
