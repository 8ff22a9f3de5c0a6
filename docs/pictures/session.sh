# The commands that docs/pictures/terminal.svg shows. `cargo xtask pictures` records them in a terminal while the
# demo's workload runs. PORTS is a list of two of the workload's ports: that of the server that is slow to accept,
# and that of the server that runs out of descriptors.

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
