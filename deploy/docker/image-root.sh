#!/bin/sh
# Everything the image holds: the program, the libraries it is linked with, and no shell.
#
#   image-root.sh BINARY DIRECTORY
set -eu
binary=$1 root=$2

mkdir -p "$root/usr/local/bin" "$root/etc" "$root/proc" "$root/data/keys"
chmod 700 "$root/data/keys"
cp "$binary" "$root/usr/local/bin/scangate"
# The loader, and what it finds: each under the path that the program asks for.
ldd "$binary" | sed -n 's|^[^/]*\(/[^ ]*\).*|\1|p' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp --dereference "$library" "$root$library"
done
# Names of database nodes are looked up by these.
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
echo 'scangate:x:65532:65532::/data:/sbin/nologin' >"$root/etc/passwd"
echo 'scangate:x:65532:' >"$root/etc/group"
