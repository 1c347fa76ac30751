"""ProxyConfig resources: what the proxies of a mesh, of a namespace and of chosen pods are started with."""

from __future__ import annotations

from collections.abc import Callable

from mesh_rig import Mesh, eventually

NewNamespace = Callable[..., str]


def proxy_config(mesh: Mesh, namespace: str, name: str, spec: str) -> None:
    mesh.create(
        f"apiVersion: networking.istio.io/v1beta1\nkind: ProxyConfig\nmetadata: {{name: {name}}}\nspec: {spec}\n",
        namespace,
    )


def pod(mesh: Mesh, namespace: str, name: str, annotation: str = "") -> None:
    annotations = f'"proxy.istio.io/config": "{annotation}"' if annotation else ""
    mesh.create(
        f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}, annotations: {{{annotations}}}}}
spec:
  containers: [{{name: app, image: docker.io/curlimages/curl:8.16.0, command: ["/bin/sleep", "infinity"]}}]
  terminationGracePeriodSeconds: 0
""",
        namespace,
    )


def test_proxies_are_started_with_what_proxy_configs_say(mesh: Mesh, new_namespace: NewNamespace) -> None:
    where, elsewhere = (new_namespace("istio-injection=enabled") for _ in range(2))
    proxy_config(mesh, "istio-system", "e2e-mesh", "{environmentVariables: {PC_A: mesh, PC_B: mesh, PC_C: mesh}}")
    try:
        proxy_config(mesh, where, "all", "{concurrency: 3, environmentVariables: {PC_B: namespace, PC_C: namespace}}")
        chosen = "{selector: {matchLabels: {app: chosen}}, concurrency: 1, environmentVariables: {PC_C: chosen}}"
        proxy_config(mesh, where, "chosen", chosen)

        def seen(namespace: str, name: str) -> tuple[str, str]:
            """The three variables in the proxy, and how many workers its Envoy was started with."""
            names = 'echo "$PC_A $PC_B $PC_C"'
            values = mesh.execute(name, "sh", "-c", names, namespace=namespace, container="istio-proxy")
            info = mesh.execute(
                name, "pilot-agent", "request", "GET", "server_info", namespace=namespace, container="istio-proxy"
            )
            line = next(text for text in info.splitlines() if '"concurrency"' in text)
            return values.strip(), line.rpartition(":")[2].strip(" ,")

        def starts(namespace: str, name: str, variables: str, workers: str, annotation: str = "") -> None:
            """istiod learns of a ProxyConfig a moment after it was applied: a pod that came too early is made again."""

            def started() -> None:
                mesh.kubectl("delete", "pod", name, "-n", namespace, "--ignore-not-found", "--grace-period=0")
                pod(mesh, namespace, name, annotation)
                mesh.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "-n", namespace, "--timeout=120s")
                assert seen(namespace, name) == (variables, workers)

            eventually(started)

        starts(where, "other", "mesh namespace namespace", "3")
        starts(where, "chosen", "mesh namespace chosen", "1")
        annotation = "concurrency: 4\\nproxyMetadata: {PC_B: annotation, PC_C: annotation}"
        starts(where, "noted", "mesh annotation annotation", "4", annotation)
        starts(elsewhere, "other", "mesh mesh mesh", "2")
    finally:
        mesh.kubectl("delete", "proxyconfig", "e2e-mesh", "-n", "istio-system")
