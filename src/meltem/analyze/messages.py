"""Messages of the analyzers: Istio's codes and levels, our words.

In: nothing. Out: `Level`, `CODES`, `Message`.
"""

from __future__ import annotations

import enum
import fnmatch
from collections.abc import Mapping

import msgspec

from meltem.objects import JsonObject

DOCUMENTATION = "https://istio.io/latest/docs/reference/config/analysis"


class Level(enum.IntEnum):
    """How bad it is; the order counts."""

    INFO = 0
    WARNING = 1
    ERROR = 2

    @property
    def title(self) -> str:
        return self.name.capitalize()


_E, _W, _I = Level.ERROR, Level.WARNING, Level.INFO
CODES: Mapping[str, tuple[str, Level]] = {
    "IST0001": ("InternalError", _E),
    "IST0002": ("Deprecated", _W),
    "IST0101": ("ReferencedResourceNotFound", _E),
    "IST0102": ("NamespaceNotInjected", _I),
    "IST0103": ("PodMissingProxy", _W),
    "IST0106": ("SchemaValidationError", _E),
    "IST0107": ("MisplacedAnnotation", _W),
    "IST0108": ("UnknownAnnotation", _W),
    "IST0109": ("ConflictingMeshGatewayVirtualServiceHosts", _E),
    "IST0110": ("ConflictingSidecarWorkloadSelectors", _E),
    "IST0111": ("MultipleSidecarsWithoutWorkloadSelectors", _E),
    "IST0112": ("VirtualServiceDestinationPortSelectorRequired", _E),
    "IST0116": ("DeploymentAssociatedToMultipleServices", _W),
    "IST0118": ("PortNameIsNotUnderNamingConvention", _I),
    "IST0123": ("NamespaceMultipleInjectionLabels", _W),
    "IST0125": ("InvalidAnnotation", _W),
    "IST0126": ("UnknownMeshNetworksServiceRegistry", _E),
    "IST0127": ("NoMatchingWorkloadsFound", _W),
    "IST0128": ("NoServerCertificateVerificationDestinationLevel", _W),
    "IST0129": ("NoServerCertificateVerificationPortLevel", _W),
    "IST0130": ("VirtualServiceUnreachableRule", _W),
    "IST0131": ("VirtualServiceIneffectiveMatch", _I),
    "IST0132": ("VirtualServiceHostNotFoundInGateway", _W),
    "IST0133": ("SchemaWarning", _W),
    "IST0134": ("ServiceEntryAddressesRequired", _W),
    "IST0135": ("DeprecatedAnnotation", _I),
    "IST0136": ("AlphaAnnotation", _I),
    "IST0137": ("DeploymentConflictingPorts", _W),
    "IST0138": ("GatewayDuplicateCertificate", _W),
    "IST0139": ("InvalidWebhook", _E),
    "IST0140": ("IngressRouteRulesNotAffected", _W),
    "IST0144": ("InvalidApplicationUID", _W),
    "IST0145": ("ConflictingGateways", _E),
    "IST0146": ("ImageAutoWithoutInjectionWarning", _W),
    "IST0147": ("ImageAutoWithoutInjectionError", _E),
    "IST0148": ("NamespaceInjectionEnabledByDefault", _I),
    "IST0149": ("JwtClaimBasedRoutingWithoutRequestAuthN", _E),
    "IST0150": ("ExternalNameServiceTypeInvalidPortName", _W),
    "IST0151": ("EnvoyFilterUsesRelativeOperation", _W),
    "IST0152": ("EnvoyFilterUsesReplaceOperationIncorrectly", _E),
    "IST0153": ("EnvoyFilterUsesAddOperationIncorrectly", _E),
    "IST0154": ("EnvoyFilterUsesRemoveOperationIncorrectly", _E),
    "IST0155": ("EnvoyFilterUsesRelativeOperationWithProxyVersion", _W),
    "IST0157": ("InvalidTelemetryProvider", _W),
    "IST0158": ("PodsIstioProxyImageMismatchInNamespace", _W),
    "IST0159": ("ConflictingTelemetryWorkloadSelectors", _E),
    "IST0160": ("MultipleTelemetriesWithoutWorkloadSelectors", _E),
    "IST0161": ("InvalidGatewayCredential", _E),
    "IST0162": ("GatewayPortNotDefinedOnService", _W),
    "IST0163": ("InvalidExternalControlPlaneConfig", _W),
    "IST0164": ("ExternalControlPlaneAddressIsNotAHostname", _I),
    "IST0165": ("ReferencedInternalGateway", _W),
    "IST0166": ("IneffectiveSelector", _W),
    "IST0170": ("MultiClusterInconsistentService", _W),
    "IST0171": ("NegativeConditionStatus", _W),
    "IST0173": ("DestinationRuleSubsetNotSelectPods", _E),
    "IST0174": ("UnknownDestinationRuleHost", _W),
    "IST0176": ("GatewayAPICRDVersionBelowMinimum", _W),
    "IST0177": ("ConflictingServiceEntryProtocol", _W),
}


class Message(msgspec.Struct, frozen=True, order=True):
    """One finding about one object. `place`: `file:line` where the object is from a file."""

    code: str
    kind: str
    namespace: str
    name: str
    text: str
    place: str = ""

    @property
    def level(self) -> Level:
        return CODES[self.code][1]

    @property
    def origin(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"

    def __str__(self) -> str:
        where = f"{self.origin} {self.place}".rstrip()
        return f"{self.level.title} [{self.code}] ({where}) {self.text}"

    def to_object(self) -> JsonObject:
        """The form of `-o json`, with Istio's names."""
        made: JsonObject = {
            "code": self.code,
            "documentationUrl": f"{DOCUMENTATION}/{self.code.lower()}/",
            "level": self.level.title,
            "message": self.text,
            "origin": self.origin,
        }
        if self.place:
            made["reference"] = self.place
        return made


class Suppression(msgspec.Struct, frozen=True):
    """`IST0102=Namespace default`, with wildcards in the object: `IST0103=Pod *.default`."""

    code: str
    subject: str

    def takes(self, message: Message) -> bool:
        own = f"{message.kind} {message.name}"
        full = f"{own}.{message.namespace}" if message.namespace else own
        return message.code == self.code and any(fnmatch.fnmatchcase(n, self.subject) for n in (own, full))
