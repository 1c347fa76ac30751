"""The kubelet's API on a Unix socket, for the API server: logs, exec, attach, port-forward. See `server`."""
