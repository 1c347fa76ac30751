"""How verbs talk while they work: lines that stay on standard output, what goes on now on a terminal's last line."""

from __future__ import annotations

import sys

import click


class Console:
    """A `meltem.install.deploy.Reporter` for a person: ✔ lines stay; the current step shows on a terminal only."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._live = sys.stderr.isatty()
        self._shown = 0

    def note(self, line: str) -> None:
        self._clear()
        if not self.quiet:
            click.echo(line)

    def busy(self, line: str) -> None:
        if not self._live or self.quiet:
            return
        self._clear()
        width = click.formatting.FORCED_WIDTH or 100
        text = f"- {line}"[: width - 1]
        click.echo(text, err=True, nl=False)
        self._shown = len(text)

    def _clear(self) -> None:
        if self._shown:
            click.echo("\r" + " " * self._shown + "\r", err=True, nl=False)
            self._shown = 0


def confirm(question: str) -> bool:
    """Istio's (y/N) question; no answer is no."""
    answer = click.prompt(f"{question} (y/N)", default="", show_default=False, prompt_suffix=" ")
    return str(answer).strip().lower() in ("y", "yes")
