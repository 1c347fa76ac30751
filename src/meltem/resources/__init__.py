"""Typed, immutable resources: what the mesh reads, as frozen structs (`parse`, `kinds`, and a module a kind)."""
