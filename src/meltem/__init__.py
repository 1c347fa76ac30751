"""Meltem: an Istio-compatible service mesh with stock Envoy as its data plane."""

__version__ = "0.1.0"
