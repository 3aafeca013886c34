#!/bin/bash
# PID 1 of a hypervisor host (see hosts.py, which makes DIRECTORY and runs this in new mount, PID and UTS namespaces):
#   host.sh NAME DIRECTORY
# The host gets its own /run, empty after each boot, and from DIRECTORY its own /etc/libvirt, /etc/hosts, /var/{lib,log,cache}/libvirt
# and /var/lib/kubeferry. Then it starts virtlogd and libvirtd, touches /run/host-is-up, and reaps until TERM ends it.
set -euo pipefail
[ $$ = 1 ] || { echo "host.sh: not PID 1: it would take over this machine" >&2; exit 1; }
name=$1 directory=$2

hostname "$name"
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/libvirt /run/sshd /run/lock
for place in etc:/etc/libvirt hosts:/etc/hosts lib:/var/lib/libvirt log:/var/log/libvirt cache:/var/cache/libvirt kubeferry:/var/lib/kubeferry; do
  mount --bind "$directory/${place%%:*}" "${place#*:}"
done

gone() { # PID NAME
  for _ in {1..50}; do [ -d "/proc/$1" ] || return 0; sleep 0.1; done
  echo "host.sh: $2 does not end" >&2
}
down() {
  trap '' TERM
  set +e
  # libvirtd first, so that it does not see its guests die; then all the rest. What is left after 5 s dies with this PID 1.
  for daemon in libvirtd virtlogd; do
    pid=$(cat "/run/$daemon.pid") && kill "$pid" && gone "$pid" "$daemon"
  done
  kill -TERM -1
  for _ in {1..50}; do
    set -- /proc/[0-9]*
    [ $# -gt 1 ] || break
    sleep 0.1
  done
  exit 0
}
trap down TERM

virtlogd -d
libvirtd -d
touch /run/host-is-up
echo "host.sh: $name is up"

# Not `exec sleep`: bash waits for each process that falls to PID 1, as every QEMU does. A defunct QEMU would look alive to a pid check.
while :; do
  sleep infinity &
  wait $! || :
done
