"""`istioctl`: everything a person types.

To add a verb: write `meltem/cli/<verb>.py` with a command made by `@command()` (or `@group()`) of `meltem.cli.base`,
and add one line to `VERBS` (or `EXPERIMENTAL`) below: its name, where it is, one line of help, and its aliases. The
module is imported only when the verb is used, so `istioctl --help` stays fast: keep imports of the other rooms out of
`main.py` and `base.py`. A verb returns None, or an int that becomes the exit code.

Exit codes: 0 · 1 something failed · 64 the command line cannot be read · 65 a resource cannot be used · 79 `analyze`
found problems · 130 Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import cast

import click

from meltem.cli.base import Globals, LazyGroup, Verb


def _elsewhere(*names: str) -> Iterator[Verb]:
    """Verbs of Istio's that say what to do in their place; no help lists them."""
    for name in names:
        yield Verb(name, f"meltem.cli.elsewhere:{name.replace('-', '_')}", "Not there", hidden=True)


EXPERIMENTAL = (
    Verb("authz", "meltem.cli.proxy.authz:authz", "Shows which AuthorizationPolicies a proxy enforces"),
    Verb("check-inject", "meltem.cli.check_inject:check_inject", "Shows why a pod is, or would be, injected or not"),
    Verb("config", "meltem.cli.config_list:config", "Shows istioctl's defaults"),
    Verb(
        "describe",
        "meltem.cli.describe:describe",
        "Describes a pod or service and what is configured for it",
        aliases=("des",),
    ),
    Verb("envoy-stats", "meltem.cli.proxy.stats:envoy_stats", "Shows what the Envoy of a pod counts", aliases=("es",)),
    Verb("injector", "meltem.cli.injector:injector", "Lists sidecar injectors and what they inject"),
    Verb("internal-debug", "meltem.cli.internal_debug:internal_debug", "Asks istiod's debug endpoints"),
    Verb("metrics", "meltem.cli.metrics:metrics", "Shows rates and latencies of workloads", aliases=("m",)),
    Verb("precheck", "meltem.cli.precheck:precheck", "Checks whether the cluster can take an installation or upgrade"),
    Verb("proxy-status", "meltem.cli.proxy.status:proxy_status", "The same as istioctl proxy-status", ("ps",), True),
    Verb("uninstall", "meltem.cli.uninstall:uninstall", "The same as istioctl uninstall", hidden=True),
    Verb("version", "meltem.cli.version:version", "The same as istioctl version", hidden=True),
    Verb("wait", "meltem.cli.wait:wait", "Waits until the proxies have a resource, or until it is gone"),
    Verb("workload", "meltem.cli.workload:workload", "Helps machines outside Kubernetes to join the mesh"),
    *_elsewhere("add-to-mesh", "create-remote-secret", "remove-from-mesh", "revision", "waypoint", "ztunnel-config"),
)

VERBS = (
    Verb("admin", "meltem.cli.admin:admin", "Manages the control plane", aliases=("istiod",)),
    Verb("analyze", "meltem.cli.analyze:analyze", "Says what is probably wrong with configuration"),
    Verb("bug-report", "meltem.cli.bug_report.command:bug_report", "Collects logs and configuration for whoever helps"),
    Verb("completion", "meltem.cli.completion:completion", "Generates completion for a shell"),
    Verb("dashboard", "meltem.cli.dashboard:dashboard", "Opens a web interface of the mesh", aliases=("dash", "d")),
    Verb("help", "meltem.cli.help:help_of", "Shows the help of a command"),
    Verb("install", "meltem.cli.install:install", "Installs or reconfigures Meltem in a cluster", aliases=("apply",)),
    Verb("kube-inject", "meltem.cli.kube_inject:kube_inject", "Adds the proxy to Kubernetes resources in files"),
    Verb("local", "meltem.cli.local:local", "Runs a cluster on this machine alone"),
    Verb("manifest", "meltem.cli.manifest:manifest", "Generates and compares manifests"),
    Verb("operator", "meltem.cli.operator:operator", "Manages the in-cluster operator"),
    Verb("options", "meltem.cli.help:options", "Lists the flags that every command takes", hidden=True),
    Verb("profile", "meltem.cli.profile:profile", "Lists, shows and compares configuration profiles"),
    Verb(
        "proxy-config",
        "meltem.cli.proxy.config:proxy_config",
        "Shows what the Envoy of a pod holds",
        aliases=("pc",),
    ),
    Verb(
        "proxy-status",
        "meltem.cli.proxy.status:proxy_status",
        "Shows which proxies have what the control plane sends them",
        aliases=("ps",),
    ),
    Verb("remote-clusters", "meltem.cli.internal_debug:remote_clusters", "Lists the clusters that istiod knows"),
    Verb("simulate", "meltem.cli.simulate:simulate", "Shows the way that a call would take, and why"),
    Verb("tag", "meltem.cli.tag:tag", "Manages revision tags: names that stand for a revision"),
    Verb("uninstall", "meltem.cli.uninstall:uninstall", "Removes Meltem from a cluster"),
    Verb("upgrade", "meltem.cli.install:upgrade", "Upgrades Meltem in place"),
    Verb("validate", "meltem.cli.validate:validate", "Validates files as admission would", aliases=("v",)),
    Verb("verify-install", "meltem.cli.verify_install:verify_install", "Checks that an installation is complete"),
    Verb("version", "meltem.cli.version:version", "Shows versions of client, control plane and data plane"),
    *_elsewhere("authz", "create-remote-secret", "deregister", "register", "waypoint", "ztunnel-config"),
)

_HELP = """Meltem: a service mesh and ingress controller that speaks Istio.

Start with `istioctl install --set profile=demo` on a Kubernetes cluster, or `istioctl local up` on this machine alone.
"""


@click.group(
    cls=LazyGroup,
    verbs=VERBS,
    name="istioctl",
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.pass_context
def cli(context: click.Context) -> None:
    context.ensure_object(Globals)


@click.group(
    cls=LazyGroup,
    verbs=EXPERIMENTAL,
    name="experimental",
    help="Commands whose form may still change.",
    short_help="Commands whose form may still change",
)
def experimental() -> None:
    pass


cli.add_command(experimental)
cli.add_alias("x", "experimental")
cli.add_alias("exp", "experimental")


def main() -> None:
    """The console script."""
    try:
        sys.exit(run(sys.argv[1:]))
    except BrokenPipeError:
        # Whoever read our output has gone; closing it again must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def run(arguments: list[str]) -> int:
    """Runs one command line; returns the exit code. Errors are printed, never raised."""
    try:
        result: object = cli.main(arguments, prog_name="istioctl", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.Abort:
        click.echo("Aborted.", err=True)
        return 130
    except click.UsageError as error:
        click.echo(f"Error: {error.format_message()}", err=True)
        where = error.ctx.command_path if error.ctx is not None else "istioctl"
        click.echo(f"Run '{where} --help' for usage.", err=True)
        return 64
    except click.ClickException as error:
        click.echo(f"Error: {error.format_message()}", err=True)
        return 1
    except (KeyboardInterrupt, EOFError):
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        return _failed(error)
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def _innermost(error: Exception) -> Exception:
    """What a group of tasks failed with, when it is one thing."""
    inner = cast("tuple[Exception, ...]", getattr(error, "exceptions", ()))
    return _innermost(inner[0]) if len(inner) == 1 else error


def _failed(error: Exception) -> int:
    from meltem.errors import InvalidResource, MeltemError

    error = _innermost(error)
    if not isinstance(error, (MeltemError, OSError)):
        raise error
    click.echo(f"Error: {error}", err=True)
    return 65 if isinstance(error, InvalidResource) else 1


if __name__ == "__main__":
    main()
