"""Admission rules: `validate(resource) -> Result`; `meltem.validate.webhook` answers the API server with them."""

from __future__ import annotations

from meltem.validate.findings import Finding, Result
from meltem.validate.mesh import validate_mesh_networks, validate_meshconfig
from meltem.validate.rules import validate

__all__ = ["Finding", "Result", "validate", "validate_mesh_networks", "validate_meshconfig"]
