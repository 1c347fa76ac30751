"""Traffic capture by CNI: the container runtime runs `istio-cni` when it makes a pod's network, in place of a
privileged init container. Only the standard library is used, and what `meltem.agent.capture` uses.

`config` the plugin's and the installer's settings → `netconf` puts the plugin into the runtime's list (pure) →
`installer` keeps that so on a node, and answers the plugin · `plugin` what the runtime runs · `pods` what a pod's
annotations ask for (pure) · `repair` mends pods that started before the plugin was there.
"""
