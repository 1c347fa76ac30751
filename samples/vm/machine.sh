#!/bin/bash
# A machine to try things on: network, host name, /etc, /var, /run and processes of its own, on this host, reachable from the
# pods of a local cluster and reaching them, like a virtual machine in the network of the cluster's node. It has a user
# istio-proxy and pilot-agent, and nothing else that a fresh machine would not have. It ends with `down`, or with the cluster.
#
#   machine.sh up NAME [NUMBER]     NUMBER (0..63, default 0) tells the addresses of several machines apart
#   machine.sh address NAME
#   machine.sh run NAME COMMAND...  as root on the machine
#   machine.sh down NAME
set -euo pipefail

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 64; }
[ $# -ge 2 ] || usage
verb=$1 name=$2
shift 2

node=$(kubectl get nodes -o jsonpath='{.items[0].status.addresses[?(@.type=="InternalIP")].address}')
net=${node%.*.*} # 10.64.255.2: everything in 10.64 is this cluster's
state=${TMPDIR:-/tmp}/meltem-machine-${net}-${name}

inside() { nsenter --target "$(cat "$state/pid")" --mount --net --uts --pid -- "$@"; }

up() {
  local number=${1:-0} link host mine
  if [ -e "$state/address" ]; then
    echo "machine $name is up already: $(cat "$state/address")"
    return
  fi
  link=vm${net#*.}n$number
  host=$net.254.$((4 * number + 1)) mine=$net.254.$((4 * number + 2))
  # What holds it outlives this script, and takes it down when the cluster has gone.
  setsid "$0" hold "$name" </dev/null >/dev/null 2>&1 &
  for _ in $(seq 100); do [ -e "$state/ready" ] && [ -s "$state/pid" ] && break; sleep 0.1; done
  [ -s "$state/pid" ] || { echo "the machine did not start" >&2; exit 1; }
  ip link add "$link" type veth peer name eth0 netns "$(cat "$state/pid")"
  ip addr add "$host/30" dev "$link"
  ip link set "$link" up
  inside sh -e <<END
ip link set lo up
ip addr add $mine/30 dev eth0
ip link set eth0 up
ip route add default via $host
printf '127.0.0.1 localhost\n$mine $name\n' > /etc/hosts
getent passwd istio-proxy >/dev/null || useradd --system --no-create-home istio-proxy
END
  command -v pilot-agent >"$state/agent"
  echo "$mine" >"$state/address" # last: now it is up
  echo "machine $name is up: $mine"
}

hold() { # until `down`, or the end of the cluster
  local kubeconfig=${KUBECONFIG:-$HOME/.kube/config} child python top
  mkdir -p "$state"
  mount -t tmpfs -o mode=0755 tmpfs "$state"
  trap 'umount -l "$state"; rmdir "$state"' EXIT
  # The user istio-proxy must be able to run the Python that pilot-agent runs in, wherever on this host it is.
  python=$(readlink -f "$(dirname "$(command -v pilot-agent)")/python")
  top=$(cut -d/ -f2 <<<"$python")
  mkdir -p "$state"/{upper,work}/{etc,var,"$top"}
  unshare --mount --net --uts --pid --fork --kill-child sh -ec "
    mount --make-rprivate /
    for d in etc var $top; do
      case \$d in usr) continue ;; esac
      mount -t overlay -o lowerdir=/\$d,upperdir=$state/upper/\$d,workdir=$state/work/\$d overlay /\$d
    done
    d=$python
    while [ \$d != / ]; do d=\$(dirname \$d); case \$d in / | /usr*) break ;; esac; chmod a+x \$d; done
    mount -t proc proc /proc
    hostname $name
    touch $state/ready
    mount -t tmpfs -o mode=0755 tmpfs /run
    exec sleep infinity" &
  child=$!
  until pgrep -P "$child" >"$state/found"; do sleep 0.05; done
  mv "$state/found" "$state/pid"
  while [ -e "$kubeconfig" ] && kill -0 "$child" 2>/dev/null; do sleep 1; done
  kill -9 "$child" 2>/dev/null || true
}

case $verb in
  up) up "$@" ;;
  hold) hold ;;
  address) cat "$state/address" ;;
  run)
    [ $# -ge 1 ] || usage
    bin=$(dirname "$(cat "$state/agent")")
    inside env -C "$PWD" PATH="$bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" ISTIO_BIN_BASE="$bin" "$@"
    ;;
  down)
    [ ! -e "$state/pid" ] || kill -9 "$(cat "$state/pid")"
    for _ in $(seq 50); do [ -e "$state" ] || break; sleep 0.1; done
    ;;
  *) usage ;;
esac
