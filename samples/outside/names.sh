#!/usr/bin/env bash
# What the cluster's DNS says of the outside's names:
#   names.sh [ADDRESS NAME...]      that line instead of the one before; without arguments, no line
set -euo pipefail
coredns="configmap coredns -n kube-system"
before=$(kubectl get $coredns -o jsonpath='{.data.NodeHosts}')
lines=$({ grep -v ' edition\.cnn\.com ' <<< "$before" || true; echo "$*"; } | awk 'NF {gsub(/["\\]/, "\\\\&"); printf "%s\\n", $0}')
kubectl patch $coredns --type merge -p "{\"data\":{\"NodeHosts\":\"$lines\"}}" > /dev/null
# CoreDNS has it as a file, which kubelet renews within a minute, and at once when the pod itself is changed.
kubectl annotate pods -n kube-system -l k8s-app=kube-dns --overwrite "meltem.io/names=$(date +%s.%N)" > /dev/null 2>&1
