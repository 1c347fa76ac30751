"""What the mesh is, whoever looks: services, workloads, endpoints, routing, destinations, gateways, authentication.

In: typed resources in the input collections (`inputs.py`). Out: derived collections that know no proxy and no Envoy;
`mesh.py` is the table of contents.
"""
