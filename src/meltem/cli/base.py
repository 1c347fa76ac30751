"""What every verb of `istioctl` is made with: lazy groups, the flags that every verb takes, and small helpers.

`@command()` and `@group()` make click commands that also take the global flags, before or after the verb, as Istio's
users type them. A verb gets them as `Globals` by `@click.pass_obj`:

    @command()
    @click.option("--short", is_flag=True)
    @click.pass_obj
    def version(settings: Globals, short: bool) -> None: ...
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

import click

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from meltem.kube.client import KubeClient
    from meltem.kube.config import KubeConfig

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Verb:
    """One line of the table of verbs. `target` is `module:attribute`."""

    name: str
    target: str
    help: str
    aliases: tuple[str, ...] = ()
    hidden: bool = False


@dataclass(slots=True)
class Globals:
    """The flags that every verb takes, as they were given on this command line."""

    kubeconfig: str = ""
    context: str = ""
    istio_namespace: str = "istio-system"
    namespace: str = ""
    as_user: str = ""
    as_group: tuple[str, ...] = ()
    as_uid: str = ""

    def kube_config(self) -> KubeConfig:
        """The cluster that the flags name; raises UserError with advice where there is none."""
        import msgspec

        from meltem.kube.config import Impersonation, load

        config = load(self.kubeconfig or None, self.context or None)
        if self.as_user or self.as_uid or self.as_group:
            impersonate = Impersonation(user=self.as_user, uid=self.as_uid, groups=self.as_group)
            config = msgspec.structs.replace(config, impersonate=impersonate)
        return msgspec.structs.replace(config, namespace=self.namespace) if self.namespace else config

    def connect(self) -> AbstractAsyncContextManager[KubeClient]:
        """A client for that cluster: `async with settings.connect() as client`."""
        from meltem.kube.client import connect

        return connect(self.kube_config())


def _store(field: str) -> Callable[[click.Context, click.Parameter, object], None]:
    def callback(context: click.Context, parameter: click.Parameter, value: object) -> None:
        if value is None or value == ():
            return
        setattr(context.ensure_object(Globals), field, value)

    return callback


def _global_options() -> list[click.Option]:
    def option(
        *declarations: str, field: str, text: str, environment: str = "", multiple: bool = False
    ) -> click.Option:
        return click.Option(
            declarations,
            help=text,
            expose_value=False,
            callback=_store(field),
            envvar=environment or None,
            multiple=multiple,
        )

    return [
        option(
            "-c",
            "--kubeconfig",
            field="kubeconfig",
            text="Kubernetes configuration file",
            environment="ISTIOCTL_KUBECONFIG",
        ),
        option(
            "--context", field="context", text="Context of the Kubernetes configuration", environment="ISTIOCTL_CONTEXT"
        ),
        option(
            "-i",
            "--istioNamespace",
            field="istio_namespace",
            text="Namespace of the control plane (default istio-system)",
            environment="ISTIOCTL_ISTIONAMESPACE",
        ),
        option(
            "-n",
            "--namespace",
            field="namespace",
            text="Namespace of what the command is about",
            environment="ISTIOCTL_NAMESPACE",
        ),
        option("--as", field="as_user", text="User to act as"),
        option("--as-group", field="as_group", text="Group to act as; may be given again", multiple=True),
        option("--as-uid", field="as_uid", text="UID to act as"),
    ]


def global_flags(context: click.Context) -> list[tuple[str, str]]:
    """Each flag that every verb takes, and what it is for."""
    records = (option.get_help_record(context) for option in _global_options())
    return [record for record in records if record is not None]


class _WithGlobals(click.Command):
    """Takes the global flags too; a verb's own flag of the same name wins."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        own = super().get_params(ctx)
        taken = {o for p in own for o in (*p.opts, *p.secondary_opts)}
        extra = [o for o in _global_options() if not taken.intersection(o.opts)]
        return [*own, *extra]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = self.params if not self.add_help_option else [*self.params]
        common = {o.name for o in _global_options()}
        flags: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                (shared if parameter not in own and parameter.name in common else flags).append(record)
        if flags:
            with formatter.section("Flags"):
                formatter.write_dl(flags)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)
        if shared:
            with formatter.section("Global Flags"):
                formatter.write_dl(shared)


class Command(_WithGlobals):
    """A verb."""


class Group(_WithGlobals, click.Group):
    """A verb with verbs of its own; aliases are not listed."""

    command_class = Command
    group_class = type

    def __init__(self, *arguments: object, **keywords: object) -> None:
        super().__init__(*arguments, **keywords)  # pyright: ignore[reportArgumentType]
        self.aliases: dict[str, str] = {}

    def add_alias(self, alias: str, name: str) -> None:
        self.aliases[alias] = name

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, self.aliases.get(cmd_name, cmd_name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise click.UsageError(f'unknown command "{args[0]}" for "{ctx.command_path}"{self._similar(ctx, args[0])}')
        return super().resolve_command(ctx, args)

    def _similar(self, ctx: click.Context, name: str) -> str:
        import difflib

        close = difflib.get_close_matches(name, self.list_commands(ctx), n=3)
        return "\n\nDid you mean this?\n" + "\n".join(f"\t{c}" for c in close) + "\n" if close else ""


class LazyGroup(Group):
    """A group whose verbs come from a table and are imported when used."""

    def __init__(self, *arguments: object, verbs: Sequence[Verb] = (), **keywords: object) -> None:
        super().__init__(*arguments, **keywords)
        self.verbs = {verb.name: verb for verb in verbs}
        for verb in verbs:
            for alias in verb.aliases:
                self.add_alias(alias, verb.name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self.verbs})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verb = self.verbs.get(self.aliases.get(cmd_name, cmd_name))
        if verb is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = verb.target.partition(":")
        found: object = getattr(importlib.import_module(module), attribute)
        if not isinstance(found, click.Command):
            raise TypeError(f"{verb.target} is not a click command")
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: list[tuple[str, str]] = []
        for name in self.list_commands(ctx):
            verb = self.verbs.get(name)
            if verb is not None:
                if not verb.hidden:
                    rows.append((name, verb.help))
                continue
            found = super().get_command(ctx, name)
            if found is not None and not found.hidden:
                rows.append((name, found.get_short_help_str(100)))
        if rows:
            with formatter.section("Available Commands"):
                formatter.write_dl(rows)


F = TypeVar("F", bound=Callable[..., object])


def command(name: str | None = None, **attributes: object) -> Callable[[Callable[..., object]], Command]:
    """`click.command` for a verb. `epilog` may hold examples (start paragraphs with \\b to keep their lines)."""
    return cast("Callable[[Callable[..., object]], Command]", click.command(name, cls=Command, **attributes))  # pyright: ignore[reportCallIssue, reportArgumentType]


def group(name: str | None = None, **attributes: object) -> Callable[[Callable[..., object]], Group]:
    """`click.group` for a verb with verbs of its own."""
    return cast("Callable[[Callable[..., object]], Group]", click.group(name, cls=Group, **attributes))  # pyright: ignore[reportCallIssue, reportArgumentType]


class Duration(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """A Go duration (`5m0s`, `90s`, `1h`); the value is seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        from meltem.gotemplate.sprig_misc import parse_duration

        nanoseconds = parse_duration(str(value))
        if nanoseconds is None or nanoseconds < 0:
            self.fail(f'"{value}" is not a duration; write it as 5m0s or 90s', param, ctx)
        return nanoseconds / 1e9


def run_until_signal(coroutine: Coroutine[object, object, T]) -> T:
    """Runs a verb that stays: SIGTERM and SIGHUP end it as Ctrl-C does, with everything cleaned up."""

    import asyncio  # half of the time that `--help` would take
    import signal

    async def run() -> T:
        work = asyncio.ensure_future(coroutine)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, work.cancel)
        return await work

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        raise click.exceptions.Exit(130) from None


def run_async(coroutine: Coroutine[object, object, T]) -> T:
    """Runs the asynchronous half of a verb."""
    import asyncio

    return asyncio.run(coroutine)
