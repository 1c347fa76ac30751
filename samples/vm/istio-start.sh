#!/bin/bash
# Starts the proxy of a machine outside Kubernetes: capture rules, then pilot-agent as the user istio-proxy.
#
#   istio-start.sh          rules and proxy, as the systemd unit calls it (as root)
#   istio-start.sh init     only the rules
#   istio-start.sh run      only the proxy
#   istio-start.sh clean    takes the rules away
#
# Reads sidecar.env (yours) and cluster.env (written by `istioctl x workload entry configure`), both in
# /var/lib/istio/envoy. ISTIO_CUSTOM_IP_TABLES=true: leaves the rules to you.
set -euo pipefail

BASE=${ISTIO_CFG:-/var/lib/istio}
set -a
for file in "${ISTIO_SIDECAR_CONFIG:-$BASE/envoy/sidecar.env}" "${ISTIO_CLUSTER_CONFIG:-$BASE/envoy/cluster.env}"; do
  # shellcheck disable=SC1090
  if [ -r "$file" ]; then . "$file"; fi
done
set +a

AGENT=$(command -v "${ISTIO_BIN_BASE:-/usr/local/bin}/pilot-agent" || command -v pilot-agent) || {
  echo "pilot-agent was not found: install Meltem on this machine, or set ISTIO_BIN_BASE" >&2
  exit 1
}

rules() { # rules [FLAGS]: sets them up anew; only takes them away with --cleanup-only
  if [ "${ISTIO_CUSTOM_IP_TABLES:-false}" = true ]; then return; fi
  "$AGENT" istio-iptables --cleanup-only
  if [ "${1:-}" != --cleanup-only ]; then "$AGENT" istio-iptables; fi
}

proxy() {
  export POD_NAME=${POD_NAME:-$(hostname -s)}
  export POD_NAMESPACE=${ISTIO_NAMESPACE:-default}
  # Without an address here the agent takes the one that the machine uses towards others.
  if [ -n "${ISTIO_SVC_IP:-}" ]; then export INSTANCE_IP=$ISTIO_SVC_IP; fi
  # The certificate that the agent got is also what it signs in with when the first token has expired.
  export PROV_CERT=${PROV_CERT-/etc/certs} OUTPUT_CERTS=${OUTPUT_CERTS-/etc/certs}
  if [ -z "${PROXY_CONFIG:-}" ]; then
    PROXY_CONFIG="serviceCluster: ${ISTIO_SERVICE:-rawvm}"
    address=${PILOT_ADDRESS:-}
    if [ -z "$address" ] && [ -n "${ISTIO_PILOT_PORT:-}" ]; then
      address=istiod.${ISTIO_SYSTEM_NAMESPACE:-istio-system}.svc:$ISTIO_PILOT_PORT
    fi
    if [ -n "$address" ]; then PROXY_CONFIG+=$'\n'"discoveryAddress: $address"; fi
    export PROXY_CONFIG
  fi
  local user=${EXEC_USER:-${ENVOY_USER:-istio-proxy}} flags
  read -r -a flags <<<"${ISTIO_AGENT_FLAGS:-}"
  if [ "${ISTIO_INBOUND_INTERCEPTION_MODE:-}" = TPROXY ]; then user=root; fi # needs CAP_NET_ADMIN
  if [ "$(id -un)" = "$user" ]; then exec "$AGENT" proxy sidecar "${flags[@]}"; fi
  exec setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups -- "$AGENT" proxy sidecar "${flags[@]}"
}

case "${1:-}" in
  clean) rules --cleanup-only ;;
  init) rules ;;
  run) proxy ;;
  "") rules && proxy ;;
  *)
    echo "usage: $0 [init | run | clean]" >&2
    exit 64
    ;;
esac
