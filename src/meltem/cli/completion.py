"""`istioctl completion bash|zsh|fish`: completion of verbs and flags."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from meltem.cli.base import group

_EXAMPLES = """Examples:

\b
  # bash, for this session and for all
  source <(istioctl completion bash)
  istioctl completion bash > /etc/bash_completion.d/istioctl

\b
  istioctl completion zsh > "${fpath[1]}/_istioctl"
  istioctl completion fish > ~/.config/fish/completions/istioctl.fish
"""


@group(help="Generates completion of verbs and flags for a shell.", epilog=_EXAMPLES)
def completion() -> None:
    pass


def _add(shell: str) -> None:
    @completion.command(shell, help=f"Writes the completion script for {shell} to standard output.")
    @click.option("--no-descriptions", is_flag=True, help="Accepted for Istio's users; has no effect")
    @click.pass_context
    def script(context: click.Context, no_descriptions: bool) -> None:
        kind = get_completion_class(shell)
        if kind is None:
            raise click.UsageError(f"no completion for {shell}")
        click.echo(kind(context.find_root().command, {}, "istioctl", "_ISTIOCTL_COMPLETE").source())


for _shell in ("bash", "zsh", "fish"):
    _add(_shell)
