"""`istioctl experimental workload`: machines outside Kubernetes join the mesh.

`group create` writes a WorkloadGroup; `entry configure` writes the files with which a machine of that group starts its
proxy, a token and the root certificate among them.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import click
import msgspec

from meltem import yamlio
from meltem.cli.base import Globals, command, group, run_async
from meltem.errors import NotFound, UserError
from meltem.install import machine as files
from meltem.install.machine import Machine
from meltem.kube.client import KubeClient
from meltem.kube.resource_types import CONFIG_MAPS, SERVICES, WORKLOAD_GROUPS
from meltem.objects import Json, JsonObject, ensure_object, name_of, namespace_of, objects_at, str_at, strings_at

ROOT_CONFIG_MAP = "istio-ca-root-cert"


@group("workload", help="Helps machines outside Kubernetes to join the mesh.")
def workload() -> None:
    pass


@group("group", help="Commands for WorkloadGroups.")
def groups() -> None:
    pass


@group("entry", help="Commands for single workloads.")
def entries() -> None:
    pass


workload.add_command(groups)
workload.add_command(entries)


_CREATE = """Examples:

\b
  istioctl x workload group create --name legacy --namespace vms --labels app=legacy,version=v1 \\
      --ports http=8080 --serviceAccount legacy | kubectl apply -f -
"""


@command("create", help="Writes a WorkloadGroup, the template of its machines' WorkloadEntries.", epilog=_CREATE)
@click.option("--name", default="", help="Name of the group")
@click.option("-l", "--labels", multiple=True, help="Labels of the workloads: env=prod,version=2")
@click.option("-a", "--annotations", multiple=True, help="Annotations of the workloads")
@click.option("-p", "--ports", multiple=True, help="Ports that the workloads serve: http=8080,grpc=3550")
@click.option("-s", "--serviceAccount", "service_account", default="default", help="Identity of the workloads")
@click.option("--network", default="", help="Network that the workloads are on")
@click.option("--locality", default="", help="Where they run: region/zone/subzone")
@click.option("-w", "--weight", type=click.IntRange(0, 2**32 - 1), default=0, help="Their share of traffic")
@click.pass_obj
def create(
    settings: Globals,
    name: str,
    labels: tuple[str, ...],
    annotations: tuple[str, ...],
    ports: tuple[str, ...],
    service_account: str,
    network: str,
    locality: str,
    weight: int,
) -> None:
    if not name:
        raise click.UsageError("expecting a workload name: give --name")
    if not settings.namespace:
        raise click.UsageError("expecting a workload namespace: give --namespace")
    template: JsonObject = {"serviceAccount": service_account}
    numbers: JsonObject = {}
    for port_name, text in _pairs(ports, "--ports").items():
        if not text.isdigit() or not 0 < int(text) < 65_536:
            raise click.UsageError(f"--ports: {port_name}={text} is no port; write it as http=8080")
        numbers[port_name] = int(text)
    for field, value in (("ports", numbers), ("network", network), ("locality", locality), ("weight", weight)):
        if value:
            template[field] = value
    metadata: JsonObject = {}
    for field, given in (("labels", labels), ("annotations", annotations)):
        if pairs := _pairs(given, f"--{field}"):
            metadata[field] = dict[str, Json](pairs)
    spec: JsonObject = {"metadata": metadata, "template": template} if metadata else {"template": template}
    made: JsonObject = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadGroup",
        "metadata": {"name": name, "namespace": settings.namespace},
        "spec": spec,
    }
    click.echo(yamlio.dump(made), nl=False)


groups.add_command(create)

_CONFIGURE = """Examples:

\b
  istioctl x workload entry configure -f workloadgroup.yaml -o files --autoregister
  istioctl x workload entry configure --name legacy --namespace vms -o files --ingressIP 203.0.113.7
"""


@command(
    "configure",
    help="Writes what a machine of a WorkloadGroup needs to join: cluster.env, mesh.yaml, root-cert.pem, istio-token "
    "and hosts.",
    epilog=_CONFIGURE,
)
@click.option("-f", "--file", "filename", default="", help="File with the WorkloadGroup")
@click.option("--name", default="", help="Name of a WorkloadGroup in the cluster, in place of a file")
@click.option("-o", "--output", "output", default="", help="Directory for the files")
@click.option("--clusterID", "cluster_id", default=None, help="Cluster that the machine belongs to (default: istiod's)")
@click.option("--tokenDuration", "token_duration", type=click.IntRange(min=600), default=3600, help="Seconds")
@click.option("--ingressService", "ingress_service", default="istio-eastwestgateway", help="SERVICE[.NAMESPACE]")
@click.option("--ingressIP", "ingress_ip", default="", help="Address at which the machine reaches istiod")
@click.option(
    "--autoregister", is_flag=False, flag_value="true", type=bool, default=False, metavar="BOOL",
    help="Make a WorkloadEntry when the machine connects",
)  # fmt: skip
@click.option(
    "--capture-dns", is_flag=False, flag_value="true", type=bool, default=True, metavar="BOOL",
    help="Resolve names of the mesh there (default true)",
)  # fmt: skip
@click.option("--internalIP", "internal_ip", default="", help="Address of the machine")
@click.option("--externalIP", "external_ip", default="", help="Its address for others, where it has not got it itself")
@click.option("-r", "--revision", default="", help="Revision of the control plane")
@click.pass_obj
def configure(
    settings: Globals,
    filename: str,
    name: str,
    output: str,
    cluster_id: str | None,
    token_duration: int,
    ingress_service: str,
    ingress_ip: str,
    autoregister: bool,
    capture_dns: bool,
    internal_ip: str,
    external_ip: str,
    revision: str,
) -> None:
    if not filename and not (name and settings.namespace):
        raise click.UsageError("give a file with a WorkloadGroup (-f), or --name and --namespace of one in the cluster")
    if not output:
        raise click.UsageError("give a directory for the files (-o)")
    if internal_ip and external_ip:
        raise click.UsageError("--internalIP and --externalIP exclude each other")
    for flag, text in (("--internalIP", internal_ip), ("--externalIP", external_ip), ("--ingressIP", ingress_ip)):
        if text and not _is_address(text):
            raise click.UsageError(f"{flag}: {text!r} is no IP address")
    machine = Machine(
        cluster_id=cluster_id or "",
        istio_namespace=settings.istio_namespace,
        revision=revision,
        autoregister=autoregister,
        capture_dns=capture_dns,
        internal_ip=internal_ip,
        external_ip=external_ip,
    )

    async def run() -> None:
        async with settings.connect() as client:
            found = _read(filename) if filename else await _group(client, settings.namespace, name)
            if not namespace_of(found):
                ensure_object(found, "metadata")["namespace"] = settings.namespace or client.config.namespace
            await Configuration(client, found, machine, Path(output)).write(
                known_cluster=cluster_id is not None,
                seconds=token_duration,
                ingress_ip=ingress_ip,
                ingress_service=ingress_service,
            )

    run_async(run())
    click.echo(f"Configuration generation into directory {output} was successful")


entries.add_command(configure)


class Configuration:
    """Reads from the cluster what the files need, and writes them."""

    def __init__(self, client: KubeClient, found: JsonObject, machine: Machine, directory: Path) -> None:
        self._client = client
        self._group = found
        self._machine = machine
        self._directory = directory

    async def write(self, *, known_cluster: bool, seconds: int, ingress_ip: str, ingress_service: str) -> None:
        machine, namespace = self._machine, namespace_of(self._group)
        if not known_cluster:
            machine = msgspec.structs.replace(machine, cluster_id=await self._cluster_id())
        mesh = await self._config("istio", "mesh")
        config = files.proxy_config(self._group, mesh, machine)
        roots = await self._client_data(namespace, ROOT_CONFIG_MAP, "root-cert.pem")
        account = files.service_account_of(self._group)
        try:
            token = await self._client.token_request(
                namespace, account, audiences=["istio-ca"], expiration_seconds=seconds
            )
        except NotFound:
            raise UserError(
                f"there is no service account {namespace}/{account}",
                where=f"WorkloadGroup {namespace}/{name_of(self._group)} spec.template.serviceAccount",
                remedy=f"Create it: kubectl create serviceaccount {account} -n {namespace}",
            ) from None
        self._directory.mkdir(parents=True, exist_ok=True)
        self._put("mesh.yaml", files.mesh_yaml(config))
        self._put("cluster.env", files.cluster_env(self._group, config, machine))
        self._put("root-cert.pem", roots)
        self._put("istio-token", str_at(token, "token"), mode=0o600)
        path = self._directory / "istio-token"
        click.echo(
            f'Warning: a security token for namespace "{namespace}" and service account "{account}" has been generated '
            f'and stored at "{path}"',
            err=True,
        )
        address = ingress_ip or await self._ingress(ingress_service)
        if not address:
            click.echo(
                f"Warning: no address was found for {machine.istiod}: name one with --ingressIP, or see to it that the "
                "machine can resolve that name.",
                err=True,
            )
        self._put("hosts", f"{address} {machine.istiod}\n" if address else "")

    def _put(self, name: str, text: str, *, mode: int = 0o644) -> None:
        path = self._directory / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        path.chmod(mode)

    async def _ingress(self, service: str) -> str:
        name, _, namespace = service.partition(".")
        try:
            found = await self._client.get(SERVICES, name, namespace or self._machine.istio_namespace)
        except NotFound:
            return ""
        for given in objects_at(found, "status", "loadBalancer", "ingress"):
            if _is_address(str_at(given, "ip")):
                return str_at(given, "ip")
        return next((a for a in strings_at(found, "spec", "externalIPs") if _is_address(a)), "")

    async def _cluster_id(self) -> str:
        values = await self._config("istio-sidecar-injector", "values")
        return str_at(values, "global", "multiCluster", "clusterName") or "Kubernetes"

    async def _config(self, name: str, key: str) -> JsonObject:
        name += f"-{self._machine.revision}" if self._machine.revisioned else ""
        text = await self._client_data(self._machine.istio_namespace, name, key)
        value = yamlio.load(text, source=f"ConfigMap {name} key {key}")
        return value if isinstance(value, dict) else {}

    async def _client_data(self, namespace: str, name: str, key: str) -> str:
        try:
            found = await self._client.get(CONFIG_MAPS, name, namespace)
        except NotFound:
            raise UserError(
                f"there is no ConfigMap {namespace}/{name}",
                remedy="Is the mesh installed? Flags: --istioNamespace and --revision name the control plane.",
            ) from None
        return str_at(found, "data", key)


def _read(filename: str) -> JsonObject:
    try:
        text = Path(filename).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise UserError(f"cannot read {filename}: {reason}") from None
    for value in yamlio.load_all(text, source=filename):
        if isinstance(value, dict) and str_at(value, "kind") == "WorkloadGroup":
            return value
    raise UserError("has no WorkloadGroup", where=filename)


async def _group(client: KubeClient, namespace: str, name: str) -> JsonObject:
    try:
        return await client.get(WORKLOAD_GROUPS, name, namespace)
    except NotFound:
        raise UserError(f"WorkloadGroup {name} not found in namespace {namespace}") from None


def _pairs(given: tuple[str, ...], flag: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in ",".join(given).split(","):
        key, separator, value = text.strip().partition("=")
        if not text.strip():
            continue
        if not separator or not key:
            raise click.UsageError(f"{flag}: {text.strip()!r} is not of the form name=value")
        found[key] = value
    return found


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
