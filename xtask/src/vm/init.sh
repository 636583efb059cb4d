#!/busybox/sh
# The first process of the virtual machine: sets the system up, runs the tests of /netpol/tests, powers off.
# What it says to `cargo xtask vm` starts with a mark. Each test has a process of its own, a few at the same time.

PATH=/usr/sbin:/usr/bin:/busybox
export PATH NETPOL_REQUIRE_PRIVILEGES=1 NETPOL_CASES=24 NETPOL_PATIENCE=9 RUST_BACKTRACE=1

if [ "$1" = test ]; then
    program=${2%%::*}
    log=/run/netpol-logs/$2
    start=$(cut -d . -f 1 /proc/uptime)
    case $2 in
    *::*) timeout -s KILL 240 "/netpol/deps/$program" --exact "${2#*::}" --nocapture >"$log" 2>&1 ;;
    *) timeout -s KILL 700 "/netpol/$program" >"$log" 2>&1 ;;
    esac
    code=$?
    # Of a test, and of the program that is named like the command.
    sed -n 's/^verified.txt: /netpol-vm: cost /p' "$log"
    [ "$2" = verify ] && sed -n 's/^[0-9][^ ]* *[a-z_0-9]* .*[0-9]$/netpol-vm: cost &/p' "$log"
    if [ $code = 0 ]; then
        outcome=passed
        grep -q "SKIP: " "$log" && outcome=skipped
        rm "$log"
    else
        outcome=failed
    fi
    [ $outcome = failed ] && mv "$log" "$log.failed"
    echo "netpol-vm: $outcome $2 $(($(cut -d . -f 1 /proc/uptime) - start))"
    exit 0
fi

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mkdir -p /run/netns /run/netpol-logs
mount -t bpf bpf /sys/fs/bpf
mount -t securityfs security /sys/kernel/security
mount -t cgroup2 cgroup /sys/fs/cgroup
ln -s /proc/self/fd /dev/fd
ip link set lo up
# The kernel loads most modules by itself, but two tests that want the same one disturb each other.
modprobe -a veth bridge br_netfilter vxlan dummy nf_tables nf_conntrack sch_ingress cls_bpf
echo 1 >/proc/sys/net/ipv4/ip_forward
echo "netpol-vm: boot $(uname -r)"
# What is left then is missing in the report.
timeout -s KILL 780 xargs -P "$(nproc)" -n 1 "$0" test </netpol/tests
for log in /run/netpol-logs/*.failed; do
    [ -e "$log" ] || continue
    echo "netpol-vm: | -- ${log##*/}"
    tail -n 80 "$log" | sed 's/^/netpol-vm: | /'
done
echo "netpol-vm: end"
poweroff -f
