# Installs what ./demo and ./test need, and only what is missing. Sourced with the repository as working directory:
#   . tools/setup.sh; setup demo        # or: setup test
# Afterwards .venv holds the project (editable) with the versions of constraints.txt, and AS_ROOT is what a command that
# needs root is put behind ("" for root). A stamp makes the next run instant.

fail() { printf '%s\n' "$@" >&2; exit 1; }

setup() {
  [ "$(uname -s)" = Linux ] || fail "A local cluster needs Linux (network namespaces); this is $(uname -s)." \
    "Use a Linux machine or virtual machine (Debian 12 or Ubuntu 24.04), or any Kubernetes cluster: README.md, \"On Kubernetes\"."
  PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
  find_root
  install_packages ip:iproute2 nft:nftables iptables-restore:iptables unshare:util-linux curl:curl
  find_python
  install_project "$1"
}

# Root itself, or sudo. Neither: the message says what to do.
find_root() {
  AS_ROOT=
  [ "$(id -u)" != 0 ] || return 0
  command -v sudo >/dev/null || fail "This needs root (network namespaces, mounts, packages), and there is no sudo on this machine." \
    "Run it as root: su -c ./demo"
  AS_ROOT=sudo
  sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v; } || fail "This needs root (network namespaces, mounts, packages), and sudo refuses." \
    "Run it as root, or as a person whom /etc/sudoers allows to use sudo."
}

# program:package pairs; installs the packages of the programs that are missing.
install_packages() {
  local pair missing=()
  for pair; do command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}"); done
  [ "${#missing[@]}" = 0 ] || apt_install "${missing[@]}"
}

apt_install() {
  command -v apt-get >/dev/null || fail "These are missing, and this is no Debian or Ubuntu: $*" \
    "Install them with your system's own package manager, then run this again."
  echo "Installing $* ..." >&2
  local log; log=$(mktemp)
  { $AS_ROOT apt-get update -qq && $AS_ROOT env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends ca-certificates "$@"; } >"$log" 2>&1 </dev/null ||
    fail "apt-get could not install: $*" "$(tail -n 5 "$log")" "Install them by hand, then run this again."
  rm -f "$log"
}

# PYTHON: the first one that is new enough and can make virtual environments.
find_python() {
  local name
  for name in python3 python3.13 python3.12 python3.11; do
    command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' && PYTHON=$name && break
  done
  if [ -z "${PYTHON:-}" ]; then
    [ -z "$(apt-cache policy python3.11 2>/dev/null | grep -s 'Candidate: [0-9]')" ] || { apt_install python3.11 python3.11-venv; PYTHON=python3.11; }
    [ -n "${PYTHON:-}" ] || { apt_install python3 python3-venv; PYTHON=python3; }
  fi
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or newer is needed; $("$PYTHON" --version) is here." \
    "Debian 12 and Ubuntu 24.04 have it as python3; elsewhere install python3.11 and python3.11-venv."
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
    apt_install "$("$PYTHON" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
}

# The project and its dependencies in .venv; "test" with the tools that the tests need.
install_project() {
  local what=. stamp=.venv/.installed-$1 now log
  [ "$1" = demo ] || what='.[dev]'
  now=$("$PYTHON" --version; cat pyproject.toml constraints.txt | cksum; pwd)
  [ "$(cat "$stamp" 2>/dev/null)" != "$now" ] || return 0
  echo "Installing the project into .venv ..." >&2
  log=$(mktemp)
  {
    [ -x .venv/bin/python ] && .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' && .venv/bin/python -m pip --version ||
      "$PYTHON" -m venv --clear .venv
    .venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt uv || true
    # uv is quicker; pip reads its own settings (mirrors, proxies), so that one of the two gets through.
    .venv/bin/uv pip install -q --python .venv/bin/python -c constraints.txt -e "$what" ||
      .venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e "$what"
  } >"$log" 2>&1 </dev/null || fail "The Python packages could not be installed:" "$(tail -n 8 "$log")" \
    "Without a way to the package index (proxy? firewall?) nothing can be installed; then run this again."
  rm -f "$log"
  printf '%s\n' "$now" >"$stamp"
}
