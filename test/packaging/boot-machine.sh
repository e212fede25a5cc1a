#!/bin/sh
# boot-machine.sh DIRECTORY NAME: becomes systemd, as process 1 of a machine whose other
# namespaces it is in already. The root is that of outside, and what is written to it goes
# into memory and no further. Each hierarchy of control groups gets a group for the machine,
# which sees it as the root.
set -e
directory=$1 name=$2

if [ "$3" != grouped ]; then
    for controls in $(awk '$3 ~ /^cgroup2?$/ { print $2 }' /proc/mounts); do
        mkdir -p "$controls/$name"
        # One without CPUs takes none; two names of one hierarchy are one.
        echo 0 2>/dev/null >"$controls/$name/cgroup.procs" || true
    done
    exec unshare --cgroup sh "$0" "$directory" "$name" grouped
fi

mount -t tmpfs tmpfs "$directory"
cd "$directory"
mkdir upper work root
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
cd root
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mkdir -p var/lib/docker
for each in run tmp var/lib/docker dev; do mount -t tmpfs -o mode=755 tmpfs "$each"; done
chmod 1777 tmp
mkdir dev/net dev/pts dev/shm
for device in null zero full random urandom tty net/tun; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
echo "$name" >etc/hostname
echo "127.0.0.1 localhost $name" >etc/hosts
awk '$3 ~ /^cgroup2?$/ { print $2, $3, $4 }' /proc/mounts >run/hierarchies

mkdir run/outside
pivot_root . run/outside
if grep -q ' cgroup ' /run/hierarchies; then mount -t tmpfs tmpfs /sys/fs/cgroup; fi
while read -r at type options; do
    controllers=$(echo "$options" | tr , '\n' | grep -vxE 'rw|relatime|no.*|xattr|release_agent=.*' | paste -sd , -)
    mkdir -p "$at"
    case $type,$controllers in
    cgroup2,*) mount -t cgroup2 cgroup2 "$at" ;;
    *name=*) mount -t cgroup -o "none,$controllers" cgroup "$at" ;;
    *) mount -t cgroup -o "$controllers" cgroup "$at" ;;
    esac
done </run/hierarchies
umount -l /run/outside

exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=basic.target --show-status=no --log-target=journal
