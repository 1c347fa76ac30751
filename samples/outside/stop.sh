#!/usr/bin/env bash
# Takes away what start.sh made.
set -euo pipefail
kubectl delete namespace outside --ignore-not-found
bash "$(dirname "$0")/names.sh"
