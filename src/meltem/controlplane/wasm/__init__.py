"""Wasm modules for proxies: fetched from registries and web servers, checked, served by checksum."""
