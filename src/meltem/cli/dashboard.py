"""`istioctl dashboard`: a local port that leads into the cluster, and the browser at it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from meltem.cli.base import Globals, command, group, run_async
from meltem.errors import MeltemError, UserError

if TYPE_CHECKING:
    from meltem.kube.client import KubeClient
    from meltem.objects import JsonObject


def _truth(_context: click.Context, _option: click.Parameter, text: str | None) -> bool | None:
    if text is None or text in ("true", "false"):
        return None if text is None else text == "true"
    raise click.BadParameter(f"{text!r} is neither true nor false")


def _options(function: Callable[..., None]) -> Callable[..., None]:
    """Flags that may stand before and after the name of the interface, as with Istio's istioctl."""
    given = (
        click.option("--address", help="Local address to listen on (default localhost)"),
        click.option("-p", "--port", type=int, help="Local port to listen on (default: the same as in the pod)"),
        click.option("--browser", is_flag=False, flag_value="true", callback=_truth, expose_value=True,
                     metavar="[true|false]", help="Whether to open a browser (default true)"),
        click.option("--no-browser", is_flag=True, hidden=True),
    )  # fmt: skip

    @functools.wraps(function)
    def wrapped(
        *arguments: object,
        address: str | None,
        port: int | None,
        browser: bool | None,
        no_browser: bool,
        **others: object,
    ) -> None:
        context = click.get_current_context()
        before = way_of(context)
        context.meta[_WAY] = Way(
            before.address if address is None else address,
            before.port if port is None else port,
            False if no_browser else before.browser if browser is None else browser,
        )
        function(*arguments, **others)

    made: Callable[..., None] = wrapped
    for option in reversed(given):
        made = option(made)
    return made


@dataclass(frozen=True, slots=True)
class Way:
    """Where to listen, and whether a browser is opened."""

    address: str = "localhost"
    port: int = 0
    browser: bool = True


_WAY = "meltem.dashboard"


def way_of(context: click.Context) -> Way:
    """What the flags said."""
    return context.meta.get(_WAY, Way())


@group("dashboard", help="Opens a web interface of the mesh: forwards a local port to it until Ctrl-C.")
@_options
def dashboard() -> None:
    pass


def _addon(name: str, port: int, labels: str, title: str, path: str = "") -> None:
    """A verb that leads to an addon's service."""

    @command(name, help=f"Opens {title}.")
    @click.option("--ui-port", default=port, help="Port of the interface in the pod")
    @_options
    @click.pass_context
    def opened(context: click.Context, ui_port: int) -> None:
        settings = context.find_object(Globals) or Globals()
        _open(context, settings, settings.namespace or settings.istio_namespace, labels, ui_port, title, path)

    dashboard.add_command(opened)


def _own(name: str, port: int, title: str, path: str = "") -> None:
    """A verb that leads to istiod."""

    @command(name, help=f"Opens {title} of istiod.")
    @click.argument("pod", required=False, metavar="[[TYPE/]NAME[.NAMESPACE]]")
    @click.option("--ctrlz_port", "--ui-port", "ui_port", default=port, help="Port in the pod")
    @click.option("-l", "--selector", default="app=istiod", help="Labels of the pod")
    @click.option("-r", "--revision", default="", help="Revision of istiod")
    @_options
    @click.pass_context
    def opened(context: click.Context, pod: str | None, ui_port: int, selector: str, revision: str) -> None:
        settings = context.find_object(Globals) or Globals()
        labels = f"{selector},istio.io/rev={revision}" if revision else selector
        _open(context, settings, settings.istio_namespace, labels, ui_port, title, path, pod=pod or "")

    dashboard.add_command(opened)


@command("envoy", help="Opens the admin interface of the Envoy in a pod.")
@click.argument("pod", required=False, metavar="[[TYPE/]NAME[.NAMESPACE]]")
@click.option("-l", "--selector", default="", help="Labels of the pod")
@click.option("--ui-port", default=15000, help="Envoy's admin port")
@_options
@click.pass_context
def envoy(context: click.Context, pod: str | None, selector: str, ui_port: int) -> None:
    if bool(pod) == bool(selector):
        raise click.UsageError("name a pod ([TYPE/]NAME[.NAMESPACE]) or give --selector")
    settings = context.find_object(Globals) or Globals()
    _open(
        context, settings, settings.namespace or "default", selector, ui_port, "Envoy's admin interface", pod=pod or ""
    )


dashboard.add_command(envoy)
dashboard.add_alias("proxy", "envoy")
_own("istiod-debug", 8080, "the debug pages", "/debug")
_own("controlz", 9876, "ControlZ", "/scopez")
_addon("kiali", 20001, "app=kiali", "Kiali", "/kiali")
_addon("grafana", 3000, "app.kubernetes.io/name=grafana", "Grafana")
_addon("prometheus", 9090, "app.kubernetes.io/name=prometheus", "Prometheus")
_addon("jaeger", 16686, "app=jaeger", "Jaeger", "/jaeger/search")
_addon("zipkin", 9411, "app=zipkin", "Zipkin")
_addon("skywalking", 8080, "app=skywalking-ui", "SkyWalking")


def _open(context: click.Context, settings: Globals, namespace: str, labels: str, port: int, title: str,
          path: str = "", *, pod: str = "") -> None:  # fmt: skip
    way = way_of(context)
    address, local, browser = way.address, way.port, way.browser

    async def run() -> None:
        from meltem.cli.proxy.access import find_pod, is_running
        from meltem.kube.resource_types import PODS
        from meltem.objects import name_of, namespace_of

        async with settings.connect() as client:
            if pod:
                found = await find_pod(client, pod, namespace)
            else:
                some = (await client.list(PODS, namespace, label_selector=labels)).items
                running = [p for p in some if is_running(p)]
                if not running:
                    raise UserError(
                        f"no pod with the labels {labels} is running in namespace {namespace}",
                        remedy=f"Is {title} installed?",
                    )
                found = running[0]

            def ready(own: int) -> None:
                url = f"http://{address}:{own}{path}"
                click.echo(f"{title} of {namespace_of(found)}/{name_of(found)}: {url}\n(Ctrl-C ends it)")
                if browser:
                    click.launch(url)

            await serve(client, found, port, address, local, ready)

    with contextlib.suppress(KeyboardInterrupt):
        run_async(run())


async def serve(
    client: KubeClient, pod: JsonObject, port: int, address: str, local: int, ready: Callable[[int], None]
) -> None:
    """Forwards connections until it is cancelled; `ready` is told the local port."""
    from meltem.objects import name_of, namespace_of

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with client.port_forward(namespace_of(pod), name_of(pod), port) as (there, back):

                async def upward() -> None:
                    while data := await reader.read(65536):
                        back.write(data)
                        await back.drain()
                    await back.write_eof()

                async with asyncio.TaskGroup() as group:
                    up = group.create_task(upward())
                    while data := await there.read(65536):
                        writer.write(data)
                        await writer.drain()
                    up.cancel()
        except* (MeltemError, ConnectionError) as errors:
            click.echo(f"warning: {errors.exceptions[0]}", err=True)
        finally:
            writer.close()

    try:
        server = await asyncio.start_server(forward, address, local or port)
    except OSError:
        if local:
            raise UserError(f"port {local} of {address} is taken", remedy="Give another one with --port.") from None
        server = await asyncio.start_server(forward, address, 0)
    async with server:
        ready(int(server.sockets[0].getsockname()[1]))
        await server.serve_forever()
