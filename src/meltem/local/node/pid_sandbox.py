"""The PID namespace that the containers of a pod share with `shareProcessNamespace`, held by a small first process.

In: the pod's context. Out: `context.pid_namespace`, the path for the runtime to join.
"""

from __future__ import annotations

from meltem.local.node.pod_context import PodContext
from meltem.local.node.runtime.spec import ContainerSpec, ProcessSpec
from meltem.objects import bool_at


def sandbox_container(context: PodContext) -> str:
    """The first process's identifier at the runtime."""
    return f"sandbox-{context.sandbox_record.uid}"


async def ensure_pid_namespace(context: PodContext) -> None:
    """Makes it, or finds it, or makes it anew when the runtime it was in has died; nothing for other pods."""
    if not bool_at(context.pod, "spec", "shareProcessNamespace"):
        return
    runtime = context.node.runtime.current
    identifier = sandbox_container(context)
    known = {c.id: c for c in await runtime.list()}
    found = known.get(identifier)
    if found is None or found.code is not None:
        if found is not None:
            await runtime.remove(identifier)
        paths = context.paths
        found = await runtime.start(
            ContainerSpec(
                id=identifier,
                directory=str(paths.container(identifier)),
                log=str(paths.root / "sandbox.log"),
                process=ProcessSpec(argv=["/bin/sleep", "infinity"], env={}),
                net_namespace=str(paths.namespaces / "net"),
                ipc_namespace=str(paths.namespaces / "ipc"),
                uts_namespace=str(paths.namespaces / "uts"),
                init=True,
                upper_on_tmpfs=context.node.upper_on_tmpfs,
            )
        )
    context.pid_namespace = f"/proc/{found.pid}/ns/pid"
