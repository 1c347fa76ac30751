#!/bin/bash
# Puts what `istioctl x workload entry configure` wrote where the proxy of a machine looks for it. Run it on the machine, as root:
#
#   join.sh DIRECTORY
#
# The user istio-proxy must be there: useradd --system --no-create-home istio-proxy
set -euo pipefail
[ $# -eq 1 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 64; }

install -D -m 0644 "$1/root-cert.pem" /etc/certs/root-cert.pem
install -D -m 0600 "$1/istio-token" /var/run/secrets/tokens/istio-token
install -D -m 0644 "$1/cluster.env" /var/lib/istio/envoy/cluster.env
install -D -m 0644 "$1/mesh.yaml" /etc/istio/config/mesh
mkdir -p /etc/istio/proxy
while read -r line; do
  grep -qxF "$line" /etc/hosts || echo "$line" >>/etc/hosts
done <"$1/hosts"
chown -R istio-proxy /var/lib/istio /etc/certs /etc/istio /var/run/secrets
