"""The container runtime: one small daemon of the standard library only, see `daemon`."""
