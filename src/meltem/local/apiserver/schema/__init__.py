"""What Kubernetes knows about its resources, as pure functions.

`kinds` which kinds exist · `types` their schemas · `process` prune, default, validate · `merge` the three kinds of
patch · `apply` server-side apply and field managers · `table` the columns of `kubectl get` · `openapi` the documents
that clients download · `cel` the expression language. Objects come in as plain JSON and go out as plain JSON; nothing
is changed in place.
"""
