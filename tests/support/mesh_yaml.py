"""Short YAML for the resources that many tests need: services with their pods and slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def service(
    name: str,
    ports: Mapping[str, int],
    endpoints: Sequence[tuple[str, str]] = (),
    *,
    namespace: str = "default",
    ip: str = "10.9.0.1",
    target: int = 8080,
    extra: str = "",
) -> str:
    """A Service whose ports all lead to `target`, and a ready pod for each endpoint (address, version)."""
    listed = "".join(f"  - {{name: {n}, port: {p}, targetPort: {target}}}\n" for n, p in ports.items())
    out = f"""
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  clusterIP: {ip}
  selector: {{app: {name}}}
{extra}  ports:
{listed}---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports:
"""
    out += "".join(f"- {{name: {n}, port: {target}, protocol: TCP}}\n" for n in ports)
    out += "endpoints:\n" if endpoints else "endpoints: []\n"
    for address, version in endpoints:
        pod = f"{name}-{version}-{address.rpartition('.')[2]}"
        out += f"- addresses: [{address}]\n  conditions: {{ready: true}}\n"
        out += f"  targetRef: {{kind: Pod, name: {pod}, namespace: {namespace}}}\n"
    for address, version in endpoints:
        pod = f"{name}-{version}-{address.rpartition('.')[2]}"
        out += f"""---
apiVersion: v1
kind: Pod
metadata: {{name: {pod}, namespace: {namespace}, labels: {{app: {name}, version: {version}}}}}
spec: {{serviceAccountName: {name}, nodeName: node-1, containers: [{{name: c}}]}}
status: {{phase: Running, podIP: {address}, podIPs: [{{ip: {address}}}]}}
"""
    return out


def istio(kind: str, name: str, spec: str, namespace: str = "default", annotations: str = "{}") -> str:
    """A resource of networking.istio.io; `spec` is YAML, indented or not."""
    lines = "\n".join("  " + line for line in spec.strip("\n").splitlines())
    return f"""
apiVersion: networking.istio.io/v1
kind: {kind}
metadata: {{name: {name}, namespace: {namespace}, annotations: {annotations}}}
spec:
{lines}
"""
