"""The few requests that the CNI installer makes to the API server, with the standard library: it runs on every node and
stays small. In: the pod's own service account. Out: JSON; raises EnvironmentError_ with the server's words.
"""

from __future__ import annotations

import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from meltem.errors import EnvironmentError_

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT = 10.0


class Refused(EnvironmentError_):
    """The API server answered with an error; `status` is HTTP's."""

    def __init__(self, message: str, *, where: str, status: int) -> None:
        super().__init__(message, where=where)
        self.status = status


class ApiServer:
    """The cluster that this pod lives in."""

    def __init__(self, environment: Mapping[str, str] = os.environ, account: Path = ACCOUNT) -> None:
        host = environment.get("KUBERNETES_SERVICE_HOST", "")
        port = environment.get("KUBERNETES_SERVICE_PORT", "443")
        self._base = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self._account = account

    def pod(self, namespace: str, name: str) -> dict[str, object]:
        return self._request("GET", f"/api/v1/namespaces/{namespace}/pods/{name}")

    def pods_of_node(self, node: str) -> list[dict[str, object]]:
        found = self._request("GET", f"/api/v1/pods?fieldSelector=spec.nodeName%3D{node}").get("items")
        items = cast("list[object]", found) if isinstance(found, list) else []
        return [cast("dict[str, object]", item) for item in items if isinstance(item, dict)]

    def delete_pod(self, namespace: str, name: str, uid: str) -> None:
        """Deletes that very pod: one of the same name that took its place stays."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        self._request("DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}", body)

    def label_pod(self, namespace: str, name: str, key: str, value: str) -> None:
        body = {"metadata": {"labels": {key: value}}}
        self._request("PATCH", f"/api/v1/namespaces/{namespace}/pods/{name}", body)

    def uninstalled(self, namespace: str, daemon_set: str) -> bool:
        """Whether the DaemonSet is gone or going. Rights that were taken from us say so too: they go with it. A server
        that cannot be reached says nothing."""
        try:
            found = self._request("GET", f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{daemon_set}", timeout=3)
        except Refused as error:
            return error.status in (401, 403, 404)
        except EnvironmentError_:
            return False
        metadata = found.get("metadata")
        return isinstance(metadata, dict) and "deletionTimestamp" in metadata

    def _request(
        self, method: str, path: str, body: Mapping[str, object] | None = None, timeout: float = _TIMEOUT
    ) -> dict[str, object]:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        request = urllib.request.Request(
            self._base + path, method=method, data=json.dumps(body).encode() if body is not None else None
        )
        request.add_header("Content-Type", kind)
        try:
            request.add_header("Authorization", "Bearer " + (self._account / "token").read_text().strip())
            context = ssl.create_default_context(cafile=str(self._account / "ca.crt"))
            with urllib.request.urlopen(request, timeout=timeout, context=context) as response:
                decoded: object = json.loads(response.read())
        except urllib.error.HTTPError as error:
            said = error.read(400).decode(errors="replace")
            raise Refused(f"the API server answered {error.code}: {said}", where=path, status=error.code) from None
        except (OSError, ValueError) as error:
            raise EnvironmentError_(f"the API server cannot be asked: {error}", where=path) from None
        return cast("dict[str, object]", decoded) if isinstance(decoded, dict) else {}
