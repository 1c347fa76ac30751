"""What is probably wrong with a mesh's configuration: one analyzer a file, Istio's message codes."""
