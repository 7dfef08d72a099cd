#!/bin/sh
# Installs the edge agent from a wheel, or a newer one over it, and goes back to the one before.
#
#   install.sh WHEEL [CONSTRAINTS]   make /opt/pdm/VERSION, check it, switch to it
#   install.sh --back                switch to the version before
#
# State (/var/lib/pdm) and configuration (/etc/pdm) are never touched. Whichever way it goes: a version that can not start
# with the settings and the state that are there is not switched to, and one that does not come up is left again.
# DESTDIR=/somewhere installs below that folder, makes no user and starts nothing. PYTHON names the interpreter: 3.11 or
# later; SYSTEMCTL the program that (re)starts the service.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=${DESTDIR:-}
opt=$root/opt/pdm
python=${PYTHON:-python3}
systemctl=${SYSTEMCTL:-}
if [ -z "$systemctl$root" ] && [ -d /run/systemd/system ]; then systemctl=systemctl; fi

say() { echo "install: $*"; }
fail() { echo "install: $*" >&2; exit 1; }

can_start() {
  PDM_STATE=$root/var/lib/pdm "$opt/$1/bin/edge-agent" check --config "$root/etc/pdm/agent.toml"
}

switch_to() { # one rename: whoever starts the agent at any moment finds a whole version
  if [ -L "$opt/current" ] && [ "$(readlink "$opt/current")" != "$1" ]; then
    ln -sfn "$(readlink "$opt/current")" "$opt/previous"
  fi
  ln -sfn "$1" "$opt/current.new"
  mv -T "$opt/current.new" "$opt/current"
  install -d "$root/etc/systemd/system"
  install -m 0644 "$opt/$1/edge-agent.service" "$root/etc/systemd/system/"
  say "current is $1"
}

restart() {
  [ -n "$systemctl" ] || return 0
  "$systemctl" daemon-reload
  "$systemctl" enable edge-agent
  "$systemctl" restart edge-agent # until it scores: Type=notify
}

take_up() { # switch, and come back where it does not come up
  before=$(readlink "$opt/current" || true)
  switch_to "$1"
  if ! restart; then
    if [ -z "$before" ] || [ "$before" = "$1" ]; then fail "$1 does not come up: journalctl -u edge-agent"; fi
    switch_to "$before"
    restart || fail "neither $1 nor $before comes up: journalctl -u edge-agent"
    fail "$1 does not come up, $before runs again: journalctl -u edge-agent"
  fi
}

if [ "${1:-}" = --back ]; then
  [ -L "$opt/previous" ] || fail "there is no version before the current one"
  before=$(readlink "$opt/previous")
  can_start "$before" || fail "$before can not start with what is there; current stays $(readlink "$opt/current")"
  take_up "$before"
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
  install -m 0644 "$here/systemd/edge-agent.service" "$opt/$version/edge-agent.service"
  touch "$opt/$version/.whole"
fi

if [ -z "$root" ]; then
  getent passwd pdm >/dev/null || useradd --system --user-group --home-dir /var/lib/pdm --shell /usr/sbin/nologin pdm
fi
install -d -m 0750 "$root/etc/pdm" "$root/var/lib/pdm" "$root/var/cache/pdm"
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
if can_start "$version"; then
  take_up "$version"
elif [ -L "$opt/current" ]; then
  fail "$version can not start with what is there; current stays $(readlink "$opt/current")"
else
  switch_to "$version"
  say "edit $root/etc/pdm/agent.toml, then: systemctl enable --now edge-agent"
fi

for old in "$opt"/*/; do # on the disk stay the current version and the one before
  name=$(basename "$old")
  case $name in
  current | previous | "$(readlink "$opt/current")" | "$(readlink "$opt/previous" || true)") ;;
  *) rm -rf "${opt:?}/$name" ;;
  esac
done
