"""From a container of a pod's spec to what the runtime starts.

In: the pod, the container, its image, environment, mounts, and the pod's sandbox. Out: `ContainerSpec`. Raises
InvalidResource where the pod asks for what cannot be (CreateContainerConfigError).
"""

from __future__ import annotations

import pwd
from pathlib import Path, PurePosixPath

import msgspec

from meltem.errors import InvalidResource
from meltem.local.config import ClusterConfig
from meltem.local.images import Image
from meltem.local.node import host
from meltem.local.node.network_setup import node_namespace
from meltem.local.node.records import PodPaths
from meltem.local.node.runtime import linux
from meltem.local.node.runtime.container import kill_signal
from meltem.local.node.runtime.spec import Bind, ContainerSpec, ProcessSpec
from meltem.objects import Json, JsonObject, bool_at, object_at, str_at, strings_at

_DEFAULT_CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
    "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
)  # fmt: skip
_ALL = (1 << len(linux.CAPABILITIES)) - 1


class Sandbox(msgspec.Struct, frozen=True):
    """What the pod's containers share."""

    config: ClusterConfig
    paths: PodPaths
    host_network: bool
    shared_pid: str
    """Path of the pod's PID namespace with shareProcessNamespace, else empty."""
    upper_on_tmpfs: bool


class Parts(msgspec.Struct, frozen=True):
    """What was worked out for one start of one container."""

    container: JsonObject
    image: Image
    argv: list[str]
    env: dict[str, str]
    binds: list[Bind]
    identifier: str
    attempt: int
    cgroups: list[str]


def build(pod: JsonObject, sandbox: Sandbox, parts: Parts) -> ContainerSpec:
    container, paths = parts.container, sandbox.paths
    name = str_at(container, "name")
    process = process_spec(pod, container, parts.image, parts.argv, parts.env)
    hidden = [hidden_root(sandbox.config)]
    needed = host.needed_paths()
    outside = [a for a in parts.argv if a.startswith("/") and "\n" not in a and len(a) < 512]
    message = paths.message(name, parts.attempt)
    message.parent.mkdir(parents=True, exist_ok=True)
    message.write_bytes(b"")
    message.chmod(0o666)
    own_files = [Bind(source=str(paths.etc / n), target=f"/etc/{n}") for n in ("hosts", "hostname", "resolv.conf")]
    own_files.append(
        Bind(
            source=str(message),
            target=str_at(container, "terminationMessagePath") or "/dev/termination-log",
        )
    )
    own_files += [Bind(source=s, target=t, readonly=True) for t, s in sorted(parts.image.files.items())]
    taken = {b.target for b in parts.binds}
    namespaces = paths.namespaces
    host_pid = bool_at(pod, "spec", "hostPID")
    return ContainerSpec(
        id=parts.identifier,
        directory=str(paths.container(parts.identifier)),
        log=str(paths.log(name, parts.attempt)),
        process=process,
        net_namespace=str(node_namespace(sandbox.config) if sandbox.host_network else namespaces / "net"),
        ipc_namespace="/proc/1/ns/ipc" if bool_at(pod, "spec", "hostIPC") else str(namespaces / "ipc"),
        uts_namespace=str(namespaces / "uts"),
        pid_namespace="host" if host_pid else sandbox.shared_pid or "new",
        binds=_ordered(
            host.keep_binds([*needed, *outside], hidden), [b for b in own_files if b.target not in taken], parts.binds
        ),
        hide=hidden,
        open_up=host.passages(needed),
        readonly_root=bool_at(container, "securityContext", "readOnlyRootFilesystem"),
        privileged=bool_at(container, "securityContext", "privileged"),
        shm=str(paths.shm),
        stdin=bool_at(container, "stdin"),
        stdin_once=bool_at(container, "stdinOnce"),
        init=parts.image.init,
        cgroups=parts.cgroups,
        upper_on_tmpfs=sandbox.upper_on_tmpfs,
        stop_signal=stop_signal(container, parts.image),
    )


def _ordered(kept: list[Bind], own: list[Bind], volumes: list[Bind]) -> list[Bind]:
    """Volumes lie over what is kept of the host, except where a needed path is below a volume (an emptyDir at /tmp when
    the Python environment is somewhere under it)."""
    tops = [PurePosixPath(v.target) for v in volumes]
    below = [k for k in kept if any(t in PurePosixPath(k.target).parents for t in tops)]
    return [*(k for k in kept if k not in below), *own, *volumes, *below]


def hidden_root(config: ClusterConfig) -> str:
    """The directory of all clusters (keys and other pods' secrets lie there), not shown to containers."""
    parent = config.path.parent
    return str(parent if parent.name == "clusters" else config.path)


def stop_signal(container: JsonObject, image: Image) -> int:
    return kill_signal(str_at(container, "lifecycle", "stopSignal") or image.stop_signal) or 15


def process_spec(
    pod: JsonObject, container: JsonObject, image: Image, argv: list[str], env: dict[str, str]
) -> ProcessSpec:
    """User, groups, capabilities, working directory: for the container's process and for those run in it."""
    if not argv:
        raise InvalidResource(
            f"no command specified: neither container {str_at(container, 'name')!r} nor its image has one"
        )
    uid, gid, groups = identity(pod, container, image)
    if "HOME" not in env:
        env = {**env, "HOME": _home(uid)}
    if bool_at(container, "tty") and "TERM" not in env:
        env = {**env, "TERM": "xterm"}
    return ProcessSpec(
        argv=argv,
        env=env,
        cwd=str_at(container, "workingDir") or image.workdir or "/",
        uid=uid,
        gid=gid,
        groups=groups,
        capabilities=capabilities(container),
        no_new_privileges=_no_new_privileges(container),
        tty=bool_at(container, "tty"),
        oom_score_adj=None,
    )


def identity(pod: JsonObject, container: JsonObject, image: Image) -> tuple[int, int, list[int]]:
    """(uid, gid, supplementary groups): container's securityContext, then the pod's, then the image's."""
    own, shared = object_at(container, "securityContext"), object_at(pod, "spec", "securityContext")
    image_uid, image_gid = _image_user(image.user)
    uid = _number(own.get("runAsUser"), shared.get("runAsUser"))
    gid = _number(own.get("runAsGroup"), shared.get("runAsGroup"))
    non_root = own.get("runAsNonRoot", shared.get("runAsNonRoot"))
    effective = image_uid if uid is None else uid
    if non_root is True and effective == 0:
        who = "container's runAsUser breaks non-root policy" if uid == 0 else (
            "container has runAsNonRoot and image will run as root"
        )  # fmt: skip
        raise InvalidResource(f"{who} (container: {str_at(container, 'name')})")
    if gid is None:
        gid = image_gid if uid is None else _primary_group(uid)
    groups = [g for g in (_number(v) for v in _list(shared.get("supplementalGroups"))) if g is not None]
    fs_group = _number(shared.get("fsGroup"))
    if fs_group is not None:
        groups.append(fs_group)
    return effective, gid, sorted({gid, *groups})


def capabilities(container: JsonObject) -> int:
    context = object_at(container, "securityContext")
    if bool_at(context, "privileged"):
        return _ALL
    add = [c.upper() for c in strings_at(context, "capabilities", "add")]
    drop = [c.upper() for c in strings_at(context, "capabilities", "drop")]
    result = 0 if "ALL" in drop else linux.mask(_DEFAULT_CAPABILITIES)
    if "ALL" in add:
        result = _ALL
    result |= linux.mask(add)
    return result & ~linux.mask([d for d in drop if d != "ALL"])


def working_files(paths: PodPaths) -> list[Path]:
    return [paths.etc / n for n in ("hosts", "hostname", "resolv.conf")]


def _no_new_privileges(container: JsonObject) -> bool:
    context = object_at(container, "securityContext")
    return context.get("allowPrivilegeEscalation") is False and not bool_at(context, "privileged")


def _image_user(user: str) -> tuple[int, int]:
    name, _, group = user.partition(":")
    if not name:
        return 0, 0
    if name.isdigit():
        return int(name), int(group) if group.isdigit() else _primary_group(int(name))
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise InvalidResource(f"the image's user {name!r} is not in this machine's /etc/passwd") from None
    return entry.pw_uid, int(group) if group.isdigit() else entry.pw_gid


def _primary_group(uid: int) -> int:
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return 0


def _home(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        return "/"


def _number(*values: Json) -> int | None:
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool)), None)


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []
