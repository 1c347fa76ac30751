"""Traffic capture: the rules in a pod's network namespace that lead its connections through Envoy.

`config` what is wanted → `rules` (pure) → `iptables_text` or `nft_text` (pure) → `apply` (runs the programs);
`validation` tries whether rules that somebody else made work; `command` is the command line.
"""
