"""Which way would this call take? The mesh's generated configuration, walked as Envoy walks it."""
