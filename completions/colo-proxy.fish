# SPDX-License-Identifier: GPL-2.0-or-later
# fish completion for colo-proxy

function __colo_proxy_running
    set -l dir /run/colo-proxy
    set -q COLO_PROXY_RUN_DIR; and set dir $COLO_PROXY_RUN_DIR
    for path in $dir/*.sock
        basename $path .sock
    end
end

function __colo_proxy_configured
    for path in /etc/colo-proxy/*.conf
        basename $path .conf
    end
end

complete -c colo-proxy -f
complete -c colo-proxy -n __fish_use_subcommand -a start -d 'Run the daemon of one VM'
complete -c colo-proxy -n __fish_use_subcommand -a stop -d 'Stop a daemon and its VM on this host'
complete -c colo-proxy -n __fish_use_subcommand -a status -d 'Show role, state, epoch and peer'
complete -c colo-proxy -n __fish_use_subcommand -a stats -d 'Show what is compared and checkpointed'
complete -c colo-proxy -n __fish_use_subcommand -a divergences -d 'Show where the two VMs differed'
complete -c colo-proxy -n __fish_use_subcommand -a checkpoint -d 'Take a checkpoint now'
complete -c colo-proxy -n __fish_use_subcommand -a policy -d 'Show or change when checkpoints are taken'
complete -c colo-proxy -n __fish_use_subcommand -a failover -d 'Take over, or hand over'
complete -c colo-proxy -n __fish_use_subcommand -a check -d 'Look at this host and a configuration'
complete -c colo-proxy -n __fish_use_subcommand -a version -d 'Show the version'

set -l talking stop status stats divergences checkpoint policy failover
complete -c colo-proxy -n "__fish_seen_subcommand_from $talking" -s s -l socket -r -F
complete -c colo-proxy -n "__fish_seen_subcommand_from $talking" -a '(__colo_proxy_running)'
complete -c colo-proxy -n '__fish_seen_subcommand_from start' -a '(__colo_proxy_configured)'
complete -c colo-proxy -n '__fish_seen_subcommand_from start check' -s c -l config -r -F
complete -c colo-proxy -n '__fish_seen_subcommand_from start' -l foreground
complete -c colo-proxy -n '__fish_seen_subcommand_from stop' -s t -l timeout -x
complete -c colo-proxy -n '__fish_seen_subcommand_from status stats' -s w -l watch
complete -c colo-proxy -n '__fish_seen_subcommand_from stats' -s i -l interval -x
complete -c colo-proxy -n '__fish_seen_subcommand_from stats' -s c -l checkpoints -x
complete -c colo-proxy -n '__fish_seen_subcommand_from divergences' -s n -l count -x
complete -c colo-proxy -n '__fish_seen_subcommand_from divergences' -s a -l all
complete -c colo-proxy -n '__fish_seen_subcommand_from divergences' -l pcapng -r -F
complete -c colo-proxy -n '__fish_seen_subcommand_from failover' -l force
complete -c colo-proxy -n '__fish_seen_subcommand_from policy' -l set -x -a 'compare epoch on-output continuous auto'
complete -c colo-proxy -n '__fish_seen_subcommand_from policy' -l latency-target -x
complete -c colo-proxy -n '__fish_seen_subcommand_from policy' -l rest -x
complete -c colo-proxy -n '__fish_seen_subcommand_from policy' -l max-pause -x
complete -c colo-proxy -n '__fish_seen_subcommand_from check' -l offline
complete -c colo-proxy -n '__fish_seen_subcommand_from check' -l protocols
complete -c colo-proxy -n '__fish_seen_subcommand_from check' -l example
complete -c colo-proxy -n '__fish_seen_subcommand_from status stats divergences checkpoint policy failover check version' -l json
