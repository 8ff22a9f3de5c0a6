# What docs/pictures/terminal.svg shows; `cargo xtask pictures` runs it in a terminal while the demo's workload runs.
# PORTS: of the workload's server that is slow to accept, and of the one that runs out of descriptors.

say() {
    printf '\033[1;32m$\033[0m '
    sleep 1
    printf '%s\n' "$1"
    sleep 0.5
}

say 'sudo acceptd check | grep -v ^ok'
acceptd check | grep -v ^ok
sleep 2
say "sudo acceptd watch --port $PORTS --set log.level=error"
timeout --signal INT 6 acceptd watch --port "$PORTS" --set log.level=error
sleep 2
say 'sudo acceptd watch --family unix --set log.level=error'
timeout --signal INT 3 acceptd watch --family unix --set log.level=error
sleep 2
say 'acceptd status'
acceptd status
sleep 4
