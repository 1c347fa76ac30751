"""The list of controllers of a local cluster.

In: a `Context`. Out: every controller, made but not running.
"""

from __future__ import annotations

from meltem.kube.resource_types import REPLICATION_CONTROLLERS
from meltem.local.controllers.accounts import NamespaceDefaultsController, TokenSecretController
from meltem.local.controllers.autoscaler import AutoscalerController
from meltem.local.controllers.binding import BindingController
from meltem.local.controllers.certificates import CertificateController
from meltem.local.controllers.cleanup import CleanupController
from meltem.local.controllers.cronjob import CronJobController
from meltem.local.controllers.daemonset import DaemonSetController
from meltem.local.controllers.deployment import DeploymentController
from meltem.local.controllers.disruption import DisruptionController
from meltem.local.controllers.endpoints import EndpointsController, MirroringController
from meltem.local.controllers.garbage import GarbageCollector
from meltem.local.controllers.job import JobController
from meltem.local.controllers.loadbalancer import LoadBalancerController
from meltem.local.controllers.namespaces import NamespaceController
from meltem.local.controllers.replicaset import ReplicaSetController
from meltem.local.controllers.runtime import Context, Controller
from meltem.local.controllers.statefulset import StatefulSetController
from meltem.local.controllers.volumes import VolumeController


def controllers(ctx: Context) -> list[Controller]:
    """Made in this order; they run side by side."""
    return [
        BindingController(ctx),
        NamespaceDefaultsController(ctx),
        TokenSecretController(ctx),
        DeploymentController(ctx),
        ReplicaSetController(ctx),
        ReplicaSetController(ctx, REPLICATION_CONTROLLERS),
        StatefulSetController(ctx),
        DaemonSetController(ctx),
        JobController(ctx),
        CronJobController(ctx),
        EndpointsController(ctx),
        MirroringController(ctx),
        LoadBalancerController(ctx),
        VolumeController(ctx),
        DisruptionController(ctx),
        AutoscalerController(ctx),
        CertificateController(ctx),
        GarbageCollector(ctx),
        NamespaceController(ctx),
        CleanupController(ctx),
    ]
