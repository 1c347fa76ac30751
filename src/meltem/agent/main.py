"""The program `pilot-agent`: reads the command line, starts what was asked for, reports errors in a sentence.

The resident command is `proxy`; the others do one thing and end. Each command imports its own modules only.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from meltem.errors import MeltemError, UserError

USAGE_STATUS = 64
COMMANDS = ("proxy", "istio-iptables", "istio-clean-iptables", "wait", "request", "version", "completion")


class _Options(Protocol):
    """What argparse leaves behind; only the fields of the chosen command are there."""

    command: str | None
    role: str
    domain: str
    proxy_log_level: str
    proxy_component_log_level: str
    concurrency: int | None
    service_cluster: str
    template_file: str
    mesh_config: str
    outlier_log_path: str
    log_output_level: str
    log_as_json: bool
    timeout_seconds: int
    request_timeout_millis: int
    period_millis: int
    url: str
    debug_port: int
    method: str
    path: str
    body: str
    short: bool
    output: str
    shell: str


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in ("istio-iptables", "istio-clean-iptables"):
        return _guarded(lambda: _capture(given))
    parser = build_parser()
    options = cast("_Options", parser.parse_args(given))
    commands: dict[str, Callable[[_Options], int]] = {
        "proxy": _proxy,
        "wait": _wait,
        "request": _request,
        "version": _version,
        "completion": _completion,
    }
    if options.command is None:
        parser.print_help()
        return 0
    return _guarded(lambda: commands[str(options.command)](options))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pilot-agent",
        description="Runs beside Envoy in the sidecar or gateway container: starts it, watches it, gets certificates.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument("--log_output_level", default="info", help="e.g. info, debug, default:warn")
    common.add_argument("--log_as_json", action="store_true", help="write log lines as JSON")
    for ignored in ("--log_target", "--log_stacktrace_level", "--log_caller", "--vklog"):
        common.add_argument(ignored, help=argparse.SUPPRESS)

    proxy = commands.add_parser("proxy", parents=[common], allow_abbrev=False, help="run Envoy and keep it supplied")
    proxy.add_argument("role", nargs="?", default="sidecar", choices=("sidecar", "router"), help="kind of proxy")
    proxy.add_argument("--domain", default="", help="DNS domain of the pod's namespace")
    proxy.add_argument("--proxyLogLevel", dest="proxy_log_level", default="warning,misc:error")
    proxy.add_argument("--proxyComponentLogLevel", dest="proxy_component_log_level", default="")
    proxy.add_argument("--concurrency", type=int, help="Envoy's worker threads; 0 for one each CPU")
    proxy.add_argument("--serviceCluster", dest="service_cluster", default="", help="service name in traces")
    proxy.add_argument("--templateFile", dest="template_file", default="", help="accepted, without effect")
    proxy.add_argument("--meshConfig", dest="mesh_config", default="", help="file with the mesh configuration")
    proxy.add_argument("--outlierLogPath", dest="outlier_log_path", default="", help="file for outlier events")
    for ignored in ("--stsPort", "--tokenManagerPlugin"):
        proxy.add_argument(ignored, help=argparse.SUPPRESS)
    proxy.add_argument("--profiling", action=argparse.BooleanOptionalAction, help=argparse.SUPPRESS)

    wait = commands.add_parser("wait", parents=[common], allow_abbrev=False, help="wait until Envoy is ready")
    wait.add_argument("--timeoutSeconds", dest="timeout_seconds", type=int, default=60)
    wait.add_argument("--requestTimeoutMillis", dest="request_timeout_millis", type=int, default=500)
    wait.add_argument("--periodMillis", dest="period_millis", type=int, default=500)
    wait.add_argument("--url", default="http://localhost:15021/healthz/ready")

    request = commands.add_parser("request", parents=[common], allow_abbrev=False, help="ask Envoy's admin port")
    request.add_argument("--debug-port", dest="debug_port", type=int, default=15000)
    request.add_argument("method")
    request.add_argument("path")
    request.add_argument("body", nargs="?", default="")

    version = commands.add_parser("version", parents=[common], allow_abbrev=False, help="print the version")
    version.add_argument("-s", "--short", action="store_true")
    version.add_argument("-o", "--output", default="", choices=("", "json", "yaml"))

    completion = commands.add_parser("completion", allow_abbrev=False, help="print a completion script")
    completion.add_argument("shell", choices=("bash", "zsh", "fish", "powershell"))

    for name in ("istio-iptables", "istio-clean-iptables"):
        commands.add_parser(name, add_help=False, help="set up, or take away, the pod's traffic capture rules")
    return parser


def _guarded(run: Callable[[], int]) -> int:
    try:
        return run()
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return USAGE_STATUS
    except MeltemError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0


def _capture(given: list[str]) -> int:
    from meltem.agent.capture import command

    cleanup = ["--cleanup-only"] if given[0] == "istio-clean-iptables" else []
    return command.main([*cleanup, *given[1:]], os.environ)


def _proxy(options: _Options) -> int:
    import asyncio

    from meltem.agent.environment import Flags, read_settings
    from meltem.agent.log import Log, level_of
    from meltem.agent.proxy import ProxySupervisor
    from meltem.clock import SystemClock

    flags = Flags(
        role=options.role,
        domain=options.domain,
        log_level=options.proxy_log_level,
        component_log_level=options.proxy_component_log_level,
        concurrency=options.concurrency,
        service_cluster=options.service_cluster,
        template_file=options.template_file,
        mesh_config_file=options.mesh_config,
        outlier_log_path=options.outlier_log_path,
        log_as_json=options.log_as_json,
        agent_log_level=level_of(options.log_output_level),
    )
    settings = read_settings(os.environ, flags)
    log = Log(flags.agent_log_level, flags.log_as_json)

    async def run() -> int:
        return await ProxySupervisor(settings, SystemClock(), log).run()

    return asyncio.run(run())


def _wait(options: _Options) -> int:
    import time
    import urllib.error
    import urllib.request

    deadline = time.monotonic() + options.timeout_seconds
    reason = ""
    print(f"Waiting for Envoy proxy to be ready (timeout: {options.timeout_seconds} seconds)...", file=sys.stderr)
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(options.url, timeout=options.request_timeout_millis / 1000):
                print("Envoy is ready!", file=sys.stderr)
                return 0
        except urllib.error.HTTPError as error:
            reason = f"it answers {error.code}"
            error.close()
        except (OSError, ValueError) as error:
            reason = str(error)
        time.sleep(options.period_millis / 1000)
    print(f"Error: Envoy was not ready within {options.timeout_seconds} seconds: {reason}", file=sys.stderr)
    return 1


def _request(options: _Options) -> int:
    import urllib.error
    import urllib.request

    url = f"http://localhost:{options.debug_port}/{options.path.lstrip('/')}"
    body = options.body.encode() if options.body or options.method.upper() == "POST" else None
    request = urllib.request.Request(url, data=body, method=options.method.upper())
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            sys.stdout.write(answer.read().decode("utf-8", "replace"))
        return 0
    except urllib.error.HTTPError as error:
        sys.stdout.write(error.read().decode("utf-8", "replace"))
        print(f"Error: received unsuccessful status code {error.code}", file=sys.stderr)
        error.close()
    except (OSError, ValueError) as error:
        print(f"Error: {url}: {error}", file=sys.stderr)
    return 1


def _version(options: _Options) -> int:
    import json
    from importlib import metadata

    from meltem.agent.node import ISTIO_VERSION

    try:
        version = metadata.version("meltem")
    except metadata.PackageNotFoundError:
        version = "unknown"
    facts = {"version": version, "istio_api": ISTIO_VERSION, "python": sys.version.split()[0]}
    if options.output == "json":
        print(json.dumps({"clientVersion": facts}, indent=2))
    elif options.output == "yaml":
        print("clientVersion:\n" + "\n".join(f"  {k}: {v}" for k, v in facts.items()))
    elif options.short:
        print(version)
    else:
        print(f"version: {version} (Istio {ISTIO_VERSION} API, Python {facts['python']})")
    return 0


def _completion(options: _Options) -> int:
    words = " ".join(COMMANDS)
    scripts = {
        "bash": f"complete -W '{words}' pilot-agent",
        "zsh": f"#compdef pilot-agent\ncompdef '_arguments \"1: :({words})\"' pilot-agent",
        "fish": f"complete -c pilot-agent -f -a '{words}'",
        "powershell": "Register-ArgumentCompleter -Native -CommandName pilot-agent -ScriptBlock {\n"
        f"  param($word) '{words}'.Split(' ') | Where-Object {{ $_ -like \"$word*\" }}\n}}",
    }
    print(scripts[options.shell])
    return 0


if __name__ == "__main__":
    sys.exit(main())
