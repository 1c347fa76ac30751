#!/usr/bin/env bash
# Starts the server that plays the outside, with names and certificates:
#   start.sh [DIRECTORY]      keeps the certificates there: ca.crt, client.crt, client.key (and the server's)
#
# The names below resolve to it in the cluster's DNS. On a local cluster, and wherever CoreDNS reads it (k3s), that is a
# line in the key NodeHosts of the ConfigMap kube-system/coredns; its other lines stay.
set -euo pipefail
here=$(dirname "$0")
if [ $# -gt 0 ]; then
  directory=$1
  mkdir -p "$directory"
else
  directory=$(mktemp -d)
  trap 'rm -rf "$directory"' EXIT
fi
NAMES="edition.cnn.com www.cnn.com httpbin.org www.google.com en.wikipedia.org de.wikipedia.org www.wikipedia.org my-nginx.example.com tcp.example.com"

certificate() {  # certificate NAME SUBJECT ALTERNATIVE-NAMES
  openssl req -newkey rsa:2048 -nodes -subj "$2" -keyout "$directory/$1.key" -out "$directory/$1.csr"
  openssl x509 -req -days 365 -CA "$directory/ca.crt" -CAkey "$directory/ca.key" -CAcreateserial \
    -in "$directory/$1.csr" -out "$directory/$1.crt" -extfile <(echo "subjectAltName=$3")
}

{
  openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj "/O=example Inc./CN=example.com" \
    -keyout "$directory/ca.key" -out "$directory/ca.crt"
  alternatives=$(printf 'DNS:%s,' $NAMES outside.outside.svc.cluster.local)
  certificate server "/O=outside organization/CN=outside.example.com" "${alternatives%,}"
  certificate client "/O=client organization/CN=client.example.com" DNS:client.example.com
} 2> "$directory/openssl.log" || { cat "$directory/openssl.log" >&2; exit 1; }

kubectl get namespace outside > /dev/null 2>&1 || kubectl create namespace outside > /dev/null
kubectl create secret generic outside-certificates -n outside --dry-run=client -o yaml --from-file=tls.crt="$directory/server.crt" \
  --from-file=tls.key="$directory/server.key" --from-file=ca.crt="$directory/ca.crt" | kubectl apply -f - > /dev/null
kubectl apply -f "$here/outside.yaml" > /dev/null
address=$(kubectl get service outside -n outside -o jsonpath='{.spec.clusterIP}')
kubectl get configmap coredns -n kube-system > /dev/null 2>&1 || kubectl create configmap coredns -n kube-system > /dev/null
bash "$here/names.sh" "$address $NAMES"
kubectl rollout status deployment/outside -n outside --timeout=120s > /dev/null
printf '%s is at %s\n' outside "$address"
