# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# shellcheck disable=SC2154
# Part of scripts/setup, whose variables ($top, $work, $kernel_suite) and functions it uses: the guest
# with servers from Debian (tests/guest/services). Below the cache, in services/:
#   tree/              the packages' programs and libraries
#   bin/               clients, run with the libraries of the tree
#   client-key         what the guest's SSH server lets in
#   initrd.img         the test guest's initramfs, with the tree and tests/guest/services behind it
#   cmdline            the test guest's, and which init

# The client and server programs that are kept of the packages.
services_programs=(usr/sbin/{lighttpd,nsd,dropbear,sshd}
	usr/bin/{dbclient,dropbearkey,dropbearconvert,redis-server,redis-check-rdb,iperf3})
services_clients=(dbclient iperf3)

# setup_services: make it again when its inputs have changed. The packages and the keys are kept until
# the list of packages changes.
setup_services() {
	local services=$COLO_CACHE/services inputs packages

	packages=$(services_packages)
	inputs=$(services_inputs "$packages")
	if [ "$(cat "$services/complete" 2>/dev/null)" = "$inputs" ]; then
		say "services: there"
		return
	fi
	mkdir -p "$work/services"
	if [ "$(cat "$services/packages" 2>/dev/null)" = "$packages" ]; then
		cp -a -- "$services"/{tree,host-key,openssh-key,client-key,client-key.pub,tls.key,tls.crt} \
			"$work/services/"
	else
		unpack_services "$work/services/tree"
		make_service_keys "$work/services"
	fi
	echo "$packages" >"$work/services/packages"
	write_service_clients "$work/services"
	build_services_initrd "$work/services"
	echo "$(cat "$COLO_CACHE/guest/cmdline") rdinit=/services/init" >"$work/services/cmdline"
	echo "$inputs" >"$work/services/complete"
	put_in_place "$work/services" "$services"
	say "services: built ($(du -sh "$services" | cut -f1))"
}

# services_packages: what the tree is made of, as one word.
services_packages() {
	{
		declare -f unpack_services make_service_keys
		declare -p services_programs
		cat "$top/tests/guest/services/packages"
	} | sha256sum | cut -d' ' -f1
}

services_inputs() {
	{
		echo "$1"
		declare -f write_service_clients build_services_initrd
		cat "$COLO_CACHE/guest/complete" "$top"/tests/guest/services/*
	} | sha256sum | cut -d' ' -f1
}

# unpack_services TREE: download the packages, keep the programs, their modules and all libraries.
unpack_services() {
	local tree=$1 deb names program lib=usr/lib/x86_64-linux-gnu unpacked=$work/unpacked-services

	say "services: downloading"
	mapfile -t names <"$top/tests/guest/services/packages"
	debs_open "$work/apt-services" "$kernel_suite"
	debs_fetch "$work/apt-services" "${names[@]}"
	say "services: unpacking $(debs_list "$work/apt-services" | wc -l) packages," \
		"$(du -sh "$work/apt-services/cache/archives" | cut -f1)"
	mkdir -p "$unpacked" "$tree/usr"/{bin,sbin} "$tree/$lib"
	while read -r deb; do
		dpkg -x "$deb" "$unpacked"
	done < <(debs_list "$work/apt-services")
	for program in "${services_programs[@]}"; do
		cp -a -- "$unpacked/$program" "$tree/$program"
	done
	cp -a -- "$unpacked/usr/lib/lighttpd" "$tree/usr/lib/"
	cp -a -- "$unpacked"/{,usr/}lib/x86_64-linux-gnu/lib*.so* "$unpacked"/lib/x86_64-linux-gnu/ld-* \
		"$tree/$lib/"
	ln -s usr/lib "$tree/lib64"
	ln -s x86_64-linux-gnu/ld-linux-x86-64.so.2 "$tree/usr/lib/ld-linux-x86-64.so.2"
	for program in "${services_programs[@]}" usr/lib/lighttpd/mod_openssl.so; do
		! "$tree/$lib/ld-linux-x86-64.so.2" --library-path "$tree/$lib" --list "$tree/$program" 2>&1 |
			grep 'not found' ||
			die "services: tests/guest/services/packages lacks a library of $program"
	done
	rm -rf -- "$unpacked" "$work/apt-services"
}

# write_service_clients DIR: DIR/bin/PROGRAM runs the tree's program from its final place.
write_service_clients() {
	local program tree=$COLO_CACHE/services/tree

	mkdir -p "$1/bin"
	for program in "${services_clients[@]}"; do
		cat >"$1/bin/$program" <<-EOF
			#!/bin/sh
			lib='$tree/usr/lib/x86_64-linux-gnu'
			exec "\$lib/ld-linux-x86-64.so.2" --argv0 '$program' --library-path "\$lib" \\
				'$tree/usr/bin/$program' "\$@"
		EOF
		chmod 755 "$1/bin/$program"
	done
}

# make_service_keys DIR: keys of the SSH server and of its client, a certificate; nothing but the lab's
# guests believes them.
make_service_keys() {
	local dir=$1 lib=$1/tree/usr/lib/x86_64-linux-gnu kind
	local run=("$lib/ld-linux-x86-64.so.2" --library-path "$lib")

	for kind in host client; do
		"${run[@]}" "$dir/tree/usr/bin/dropbearkey" -t ed25519 -f "$dir/$kind-key" \
			>"$dir/$kind-key.pub" 2>/dev/null || die "services: dropbearkey makes no key"
	done
	"${run[@]}" "$dir/tree/usr/bin/dropbearconvert" dropbear openssh "$dir/host-key" \
		"$dir/openssh-key" 2>/dev/null || die "services: dropbearconvert converts no key"
	printf '%s\n' 'cn = "guest.test"' 'dns_name = "guest.test"' 'expiration_days = 36500' \
		tls_www_server >"$work/certificate"
	{
		certtool --generate-privkey --key-type ecdsa --curve secp256r1 --no-text \
			--outfile "$dir/tls.key" &&
			certtool --generate-self-signed --load-privkey "$dir/tls.key" \
				--template "$work/certificate" --outfile "$dir/tls.crt"
	} 2>"$work/certtool" || die "services: no certificate: $(cat "$work/certtool")"
}

# build_services_initrd DIR: a second archive behind the test guest's initramfs; the kernel unpacks both.
build_services_initrd() {
	local dir=$1 root=$work/services-root src=$top/tests/guest/services

	mkdir -p "$root"/{services/modules,etc,root/.ssh}
	cp -a -- "$dir/tree/." "$root/"
	rm -- "$root/usr/bin"/{dbclient,dropbearkey,dropbearconvert}
	cp -- "$src"/*.{conf,zone} "$dir"/{host,openssh}-key "$root/services/"
	cp -- "$COLO_CACHE"/kernel/services/*.ko "$root/services/modules/"
	install -m 755 "$src/init" "$root/services/init"
	cat "$dir/tls.key" "$dir/tls.crt" >"$root/services/tls.pem"
	grep '^ssh-' "$dir/client-key.pub" >"$root/root/.ssh/authorized_keys"
	chmod 700 "$root/root" "$root/root/.ssh"
	printf '%s\n' 'root:x:0:0::/root:/bin/sh' 'sshd:x:1:0::/run/sshd:/bin/false' >"$root/etc/passwd"
	echo 'root:x:0:' >"$root/etc/group"
	echo '/bin/sh' >"$root/etc/shells"
	# nsd takes a zone file of 1970 for one that is not there.
	find "$root" -exec touch -h -d @1000000000 {} +
	{
		cat "$COLO_CACHE/guest/initrd.img"
		cd "$root" && find . -mindepth 1 -print0 | sort -z |
			cpio --null --create --quiet --format=newc --owner=0:0 --reproducible
	} >"$dir/initrd.img"
	rm -rf -- "$root"
}
