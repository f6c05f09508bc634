# Scene "appliance": two volumes of a box that is mirrored to another one. A file system with fio's verified writes on the first
# one; on the second one numbers, each written after the one before was answered. Meanwhile the host of the guest cuts the cable
# between the boxes and switches off either of them.

# target NAME: the target of that volume's group.
target() {
    awk -v name="$1" '{ count = split($2, part, "."); if (part[count] == name) { print $2; exit } }' /run/found
}

# session NAME PORT: the disk of that volume.
session() {
    before=$(disks)
    IQN=$(target "$1")
    [ -n "$IQN" ] || die "no target for $1: $(cat /run/found)"
    login "$2" >&2
    wait_disks $(($(echo "$before" | grep -c .) + 1)) | grep -v -x -F "${before:-none}"
}

# The numbers: number N stands in sector N * 37 % 64, so that a sector is written again by every 64th.
numbers() {
    n=0
    while [ ! -e /run/enough ]; do
        n=$((n + 1))
        yes "$(printf %015d "$n")" | head -c 512 >/run/sector
        dd if=/run/sector of="$1" bs=512 seek=$((n * 37 % 64)) oflag=direct conv=notrunc 2>/run/dd ||
            { echo "number $n: $(cat /run/dd)" >/run/numbers_failed; break; }
        echo "$n" >/run/number
        # So that numbers are still written when the file system has had its load.
        usleep 20000
    done
}

reached() {
    [ ! -e /run/numbers_failed ] || die "$(cat /run/numbers_failed)"
    cat /run/number
}

# Waits until so many more numbers are written.
more_numbers() {
    goal=$(($(reached) + $1))
    tries=0
    while [ "$(reached)" -lt "$goal" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 1200 ] || die "the numbers stand still at $(reached)"
        usleep 200000
    done
}

case_login() {
    iscsiadm -m discovery -t sendtargets -p "10.0.2.2:$PORT1" >/run/found
    iscsiadm -m node -o delete
    session data "$PORT1" >/run/data
    session count "$PORT1" >/run/count
    tell "data $(cat /run/data), count $(cat /run/count)"
}

case_begin() {
    data=/dev/$(cat /run/data)
    mkfs.ext4 -q -F "$data"
    mount -t ext4 "$data" /mnt
    echo 0 >/run/number
    numbers "/dev/$(cat /run/count)" 3>&- &
    # About a minute of writes, if nothing is in their way.
    (verify_write /mnt/verify "$FIO_SIZE" --rate="$FIO_RATE" || : >/run/fio_failed; : >/run/fio_over) 3>&- &
    more_numbers 20
}

# The cable: hosts of the source notice nothing.
case_cable() {
    ask cable cut
    more_numbers 40
    ask cable whole
    more_numbers 20
}

# The mirror loses its power: hosts of the source notice nothing.
case_mirror_off() {
    ask off b
    more_numbers 40
    ask on b
    more_numbers 20
}

# The source loses its power: hosts wait until it is back, and nothing that was answered is gone.
case_source_off() {
    ask off a
    sleep 5
    ask on a
    more_numbers 20
}

# Both at once while the cable is cut, so that the mirror lacks some numbers. The host of the guest looks at the mirror alone then.
case_both_off() {
    ask in-order
    least=$(reached)
    ask cable cut
    more_numbers 40
    ask mirror-alone "$((least - 20))" "$(reached)"
    more_numbers 20
}

case_numbers() {
    : >/run/enough
    tries=0
    while pidof dd >/dev/null; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || die "the last number is not answered"
        usleep 200000
    done
    sleep 1
    ask numbers "$(reached)"
    tell "$(reached) numbers"
}

case_verify() {
    until_true 600 "fio has ended" test -e /run/fio_over
    [ ! -e /run/fio_failed ] || die "fio: $(cat /run/fio)"
    data=/dev/$(cat /run/data)
    umount /mnt
    echo 3 >/proc/sys/vm/drop_caches
    mount -t ext4 "$data" /mnt
    verify_read /mnt/verify "$FIO_SIZE"
    umount /mnt
    e2fsck -fn "$data"
}

case_logout() {
    iscsiadm -m node --logoutall=all
    until_true 20 "the disks are gone" test -z "$(disks)"
}

outage='conn error|timed out|timing out|detected conn|session recovery|I/O error|Sense|FAILED|rejecting|blocked for more|hung task'
run login
run begin
run cable "$outage"
run mirror_off "$outage"
run source_off "$outage"
run both_off "$outage"
run numbers "$outage"
run verify "$outage"
run logout "$outage"
