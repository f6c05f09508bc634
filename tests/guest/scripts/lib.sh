# What the scenes share. The host reads lines that begin with @ on ttyS1:
#   @begin CASE    @ok CASE TEXT    @failed CASE TEXT    @not-offered CASE TEXT
#   @note NAME TEXT    @kept TEXT    @end
#   @ask WORDS     which the host answers with "ok TEXT" or "no TEXT"

exec 3<>/dev/ttyS1

say() {
    echo "@$*" >&3
}

note() {
    say note "$@"
}

# Has the host do something. Prints what it answers.
ask() {
    say ask "$@"
    read -r answer rest <&3 || die "the host does not answer"
    [ "$answer" = ok ] || die "the host could not $*: $rest"
    echo "$rest"
}

# Ends a case as failed.
die() {
    echo "$*" >/run/why
    exit 1
}

# Ends a case whose command the target does not list.
not_offered() {
    echo "$*" >/run/why
    exit 77
}

# Text that goes behind the result of a case.
tell() {
    echo "$*" >/run/why
}

dmesg_seen() {
    dmesg | wc -l >/run/dmesg_seen
}

# Kernel lines since the last look that tell of trouble. $1: pattern of those that the case has caused itself.
dmesg_trouble() {
    dmesg | tail -n +"$(($(cat /run/dmesg_seen) + 1))" |
        grep -E 'Sense Key|Add\. Sense|FAILED Result|[Aa]bort|Invalid|I/O error|rejecting|offline|conn error|timed out|timing out|WARNING|BUG|Oops|hung task|blocked for more|corrupt|Corrupt|EXT4-fs (error|warning)|XFS .*([Ee]rror|shut)|md/raid.*fail|Failing path|[Rr]eset failed|protocol error|[Uu]nsupported sense' |
        grep -v -E "${1:-^\$}"
}

# run CASE [PATTERN]: runs the function case_CASE in a shell of its own, with -e, and tells the host. Kernel lines that match the
# pattern are caused by the case.
run() {
    case_name=$1
    say begin "$case_name"
    echo "=== $case_name"
    : >/run/why
    : >/run/out
    (
        set -e
        "case_$case_name"
    ) >/run/out 2>&1
    status=$?
    sed 's/^/  /' /run/out
    trouble=$(dmesg_trouble "$2" | head -n 3 | tr '\n' ';')
    dmesg_seen
    why=$(head -n 1 /run/why)
    if [ "$status" = 0 ] && [ -n "$trouble" ]; then
        say failed "$case_name" "the kernel says: $trouble"
    elif [ "$status" = 0 ]; then
        say ok "$case_name" "$why"
    elif [ "$status" = 77 ]; then
        say not-offered "$case_name" "$why"
    else
        say failed "$case_name" "${why:-status $status: $(tail -n 1 /run/out)}"
    fi
}

finish() {
    dmesg >/run/dmesg
    echo "=== dmesg"
    cat /run/dmesg
    say end
    sync
    poweroff -f
    sleep 60
}

# Settings of iscsid that every session of this guest gets.
set_iscsid() {
    cat >/etc/iscsi/iscsid.conf <<END
node.startup = manual
node.session.timeo.replacement_timeout = ${REPLACEMENT_TIMEOUT:-120}
node.conn[0].timeo.login_timeout = 15
node.conn[0].timeo.logout_timeout = 15
node.conn[0].timeo.noop_out_interval = 5
node.conn[0].timeo.noop_out_timeout = ${NOOP_TIMEOUT:-20}
node.session.err_timeo.abort_timeout = 15
node.session.err_timeo.lu_reset_timeout = 30
node.session.initial_login_retry_max = 8
node.session.cmds_max = 128
node.session.queue_depth = 32
node.session.iscsi.InitialR2T = No
node.session.iscsi.ImmediateData = Yes
node.session.iscsi.FirstBurstLength = 262144
node.session.iscsi.MaxBurstLength = 16776192
node.conn[0].iscsi.MaxRecvDataSegmentLength = 262144
node.conn[0].iscsi.HeaderDigest = ${HEADER_DIGEST:-None}
node.conn[0].iscsi.DataDigest = ${DATA_DIGEST:-None}
END
}

# login PORT: a session through that port of the host, and its disk's name.
login() {
    iscsiadm -m node -T "$IQN" -p "10.0.2.2:$1" -o new >/dev/null
    iscsiadm -m node -T "$IQN" -p "10.0.2.2:$1" --login
}

logout() {
    iscsiadm -m node -T "$IQN" -p "10.0.2.2:$1" --logout
}

# Names of the disks of the target under test, one a line.
disks() {
    for block in /sys/block/sd*; do
        [ -e "$block/device/vendor" ] || continue
        case $(cat "$block/device/vendor") in REPRISE*) echo "${block##*/}" ;; esac
    done
}

# wait_disks COUNT: until so many are there; prints them.
wait_disks() {
    tries=0
    while [ "$(disks | wc -l)" != "$1" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 150 ] || die "after 30 s there are $(disks | wc -l) disks instead of $1"
        usleep 200000
    done
    udevadm settle --timeout=30 || true
    disks
}

# expect STATUS WHAT COMMAND...: the command's exit status is that one.
expect() {
    wanted=$1 what=$2
    shift 2
    got=0
    "$@" || got=$?
    [ "$got" = "$wanted" ] || die "$what: status $got instead of $wanted"
}

# until_true SECS WHAT COMMAND...
until_true() {
    secs=$1 what=$2
    shift 2
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -le $((secs * 2)) ] || die "not so after $secs s: $what"
        usleep 500000
    done
}

# verify_write FILE SIZE [OPTION...] and verify_read FILE SIZE: fio with crc32c in every block.
verify_write() {
    file=$1 size=$2
    shift 2
    fio --name=verify --filename="$file" --size="$size" --rw=randwrite --bsrange=4k-64k --bs_unaligned=0 --direct=1 \
        --ioengine=libaio --iodepth=16 --verify=crc32c --do_verify=0 --randrepeat=1 --fsync_on_close=1 \
        --minimal --output=/run/fio "$@"
}

verify_read() {
    fio --name=verify --filename="$1" --size="$2" --rw=randwrite --bsrange=4k-64k --bs_unaligned=0 --direct=1 \
        --ioengine=libaio --iodepth=16 --verify=crc32c --verify_only --verify_fatal=1 --randrepeat=1 \
        --minimal --output=/run/fio
}

# A file whose content follows from its number: pattern NUMBER KIB.
pattern() {
    yes "file $1 of the guest under test" | head -c "$(($2 * 1024))"
}
