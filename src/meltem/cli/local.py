"""`istioctl local`: clusters on this machine alone."""

from __future__ import annotations

import json
import os

import click

from meltem.cli.base import Duration, group, run_async, run_until_signal
from meltem.local import up as local_up
from meltem.local.config import IP_FAMILIES, IpFamily


@group(help="Runs a whole cluster on this Linux machine: API server, controllers and one node, no container runtime.")
def local() -> None: ...


_name = click.option("--name", default=local_up.DEFAULT_NAME, show_default=True, help="Name of the cluster")


@local.command(
    "up",
    help="Brings a local cluster up, or finds it as it was.",
    epilog="""Examples:

\b
  # A cluster, and the mesh in it.
  istioctl local up && istioctl install --set profile=demo -y

\b
  # A second one beside it.
  istioctl local up --name other

\b
  # One whose pods and services have IPv4 and IPv6 addresses.
  istioctl local up --name two --ip-family dual
""",
)
@_name
@click.option("--api-port", type=click.IntRange(1, 65535), default=None, help="Port of the API server on 127.0.0.1")
@click.option(
    "--ip-family",
    type=click.Choice(IP_FAMILIES),
    default=None,
    help="Addresses that a new cluster's pods and services have  [default: ipv4]",
)
@click.option("--timeout", type=Duration(), default="1m0s", show_default=True, help="How long to wait for the node")
@click.option("--no-context", is_flag=True, help="Leave your kubeconfig as it is")
def up(name: str, api_port: int | None, ip_family: IpFamily | None, timeout: float, no_context: bool) -> None:
    config = run_async(
        local_up.up(
            name,
            api_port=api_port or 0,
            ip_family=ip_family,
            timeout=timeout,
            merge_kubeconfig=not no_context,
            tell=click.echo,
        )
    )
    click.echo(f"✔ Cluster {name} is up: {config.api_url}")
    if no_context:
        click.echo(f"  export KUBECONFIG={config.kubeconfig}")


@local.command("down", help="Takes a local cluster down. Its objects are kept for the next `up`, unless purged.")
@_name
@click.option("--purge", is_flag=True, help="Remove its objects and its kubeconfig context too")
def down(name: str, purge: bool) -> None:
    run_async(local_up.down(name, purge=purge))
    click.echo(f"✔ Cluster {name} is {'gone' if purge else 'down; `istioctl local up` brings it back'}")


@local.command("status", help="Tells which local clusters there are, and how they are.")
@click.option("--name", default="", help="Only this one")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="Form of the output")
def status(name: str, output: str) -> None:
    configs = [local_up.find(name)] if name else local_up.clusters()
    found = [run_async(local_up.status(c)) for c in configs]
    if output == "json":
        click.echo(json.dumps([{f: getattr(s, f) for f in s.__struct_fields__} for s in found], indent=2))
        return
    if not found:
        click.echo("There are no local clusters. `istioctl local up` makes one.")
        return
    click.echo(f"{'NAME':<16}{'STATE':<10}{'NODE':<10}{'PODS':<8}{'API SERVER':<28}CONTEXT")
    for one in found:
        state = "running" if one.running else "stopped"
        node = ("Ready" if one.node_ready else "NotReady") if one.running else "-"
        pods = f"{one.pods_ready}/{one.pods}" if one.running else "-"
        click.echo(f"{one.name:<16}{state:<10}{node:<10}{pods:<8}{one.api:<28}{one.context}")


@local.command(
    "demo",
    help="A mesh of its own with Bookinfo behind its ingress gateway, until Ctrl-C; then everything is taken down.",
)
@click.option("--name", default="", help="Name of its cluster  [default: demo; with --smoke one that nothing else has]")
@click.option("--smoke", is_flag=True, help="Check it end to end, say in one line what was checked, take it down")
def demo(name: str, smoke: bool) -> None:
    from meltem.local import demo as local_demo

    def tell(line: str) -> None:
        click.echo(line, err=smoke)

    if smoke:
        click.echo(run_until_signal(local_demo.check(name or f"smoke-{os.getpid()}", tell)))
    else:
        run_until_signal(local_demo.demonstrate(name or "demo", tell))
