#!/bin/sh
# Installs the edge agent from a wheel, or a newer one over it, and goes back to the one before.
#
#   install.sh WHEEL [CONSTRAINTS]   make /opt/pdm/VERSION, check it, switch to it
#   install.sh --back                switch to the version before
#
# State (/var/lib/pdm) and configuration (/etc/pdm) are never touched. DESTDIR=/somewhere installs below that folder,
# makes no user and starts nothing. PYTHON names the interpreter: 3.11 or later.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=${DESTDIR:-}
opt=$root/opt/pdm
python=${PYTHON:-python3}

say() { echo "install: $*"; }
fail() { echo "install: $*" >&2; exit 1; }

switch_to() { # one rename: whoever starts the agent at any moment finds a whole version
  ln -sfn "$1" "$opt/current.new"
  mv -T "$opt/current.new" "$opt/current"
  say "current is $1"
}

restart() {
  if [ -z "$root" ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl enable edge-agent
    systemctl restart edge-agent
  fi
}

if [ "${1:-}" = --back ]; then
  [ -L "$opt/previous" ] || fail "there is no version before the current one"
  before=$(readlink "$opt/previous")
  ln -sfn "$(readlink "$opt/current")" "$opt/previous"
  switch_to "$before"
  restart
  exit 0
fi

wheel=${1:?usage: install.sh WHEEL [CONSTRAINTS] | --back}
constraints=${2:-$here/../constraints.txt}
[ -f "$wheel" ] || fail "there is no $wheel"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$python is older than 3.11; set PYTHON"

version=$(basename "$wheel" | cut -d- -f2)-$(sha256sum "$wheel" | cut -c1-8)
mkdir -p "$opt"
if [ ! -e "$opt/$version/.whole" ]; then
  rm -rf "${opt:?}/$version"
  "$python" -m venv "$opt/$version"
  set -- --quiet --disable-pip-version-check
  if [ -f "$constraints" ]; then set -- "$@" -c "$constraints"; fi
  "$opt/$version/bin/pip" install "$@" "$wheel[edge]"
  touch "$opt/$version/.whole"
fi

if [ -z "$root" ]; then
  getent passwd pdm >/dev/null || useradd --system --user-group --home-dir /var/lib/pdm --shell /usr/sbin/nologin pdm
fi
install -d -m 0750 "$root/etc/pdm" "$root/var/lib/pdm" "$root/var/cache/pdm"
install -d "$root/etc/systemd/system"
install -m 0644 "$here/systemd/edge-agent.service" "$root/etc/systemd/system/edge-agent.service"
if [ ! -e "$root/etc/pdm/agent.toml" ]; then
  install -m 0640 "$here/agent.toml" "$root/etc/pdm/agent.toml"
fi

# The kernels are compiled now, so that the service, which may not write there, starts in a second.
fill="import models.features.extract as e; e.warm_up()"
if [ -z "$root" ]; then
  chown -R pdm:pdm /var/lib/pdm /var/cache/pdm
  chgrp -R pdm /etc/pdm
  runuser -u pdm -- env NUMBA_CACHE_DIR=/var/cache/pdm "$opt/$version/bin/python" -c "$fill"
else
  NUMBA_CACHE_DIR=$root/var/cache/pdm "$opt/$version/bin/python" -c "$fill"
fi

"$opt/$version/bin/edge-agent" --help >/dev/null
if [ -L "$opt/current" ] && [ "$(readlink "$opt/current")" != "$version" ]; then
  ln -sfn "$(readlink "$opt/current")" "$opt/previous"
fi
switch_to "$version"
if PDM_STATE=$root/var/lib/pdm "$opt/current/bin/edge-agent" check --config "$root/etc/pdm/agent.toml"; then
  restart
else
  say "edit $root/etc/pdm/agent.toml, then: systemctl enable --now edge-agent"
fi
