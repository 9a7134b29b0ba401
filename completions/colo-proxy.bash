# SPDX-License-Identifier: GPL-2.0-or-later
# bash completion for colo-proxy

_colo_proxy_names() {
	local path
	for path in "${COLO_PROXY_RUN_DIR:-/run/colo-proxy}"/*.sock; do
		[[ -S $path ]] && basename "$path" .sock
	done
}

_colo_proxy() {
	local cur=${COMP_WORDS[COMP_CWORD]}
	local prev=${COMP_WORDS[COMP_CWORD - 1]}
	local command=${COMP_WORDS[1]}
	local options words=""

	COMPREPLY=()
	if ((COMP_CWORD == 1)); then
		words="start stop status stats divergences checkpoint policy failover check version --help --version"
		mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
		return
	fi
	case $prev in
	-c | --config | -s | --socket | --pcapng)
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	--set)
		mapfile -t COMPREPLY < <(compgen -W "compare epoch on-output continuous auto" -- "$cur")
		return
		;;
	esac
	case $command in
	start) options="--config --foreground" ;;
	stop) options="--socket --timeout" ;;
	status) options="--socket --watch --json" ;;
	stats) options="--socket --watch --interval --checkpoints --json" ;;
	divergences) options="--socket --count --all --pcapng --json" ;;
	checkpoint) options="--socket --json" ;;
	policy) options="--socket --set --latency-target --rest --max-pause --json" ;;
	failover) options="--socket --force --json" ;;
	check) options="--config --offline --protocols --example --json" ;;
	version) options="--json" ;;
	*) return ;;
	esac
	if [[ $cur == -* ]]; then
		words="$options --help"
	elif [[ $command == start ]]; then
		words=$(for path in /etc/colo-proxy/*.conf; do
			[[ -f $path ]] && basename "$path" .conf
		done)
	elif [[ $command != check && $command != version ]]; then
		words=$(_colo_proxy_names)
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -o filenames -F _colo_proxy colo-proxy
