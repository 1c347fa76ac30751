"""What one class of proxies may see: the only thing that generation reads.

In: the mesh's collections and the connected proxies. Out: scopes (who sees alike) and units of view (`units.py`):
frozen values, each the complete input of one generated resource. Equal units are generated once.
"""
